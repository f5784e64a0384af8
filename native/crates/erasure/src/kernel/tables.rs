//! Factors in the form that a path multiplies by, in the order in which it reads them.

use super::{Path, ROWS_MAX};
use crate::field;

/// A cache line of a table.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

/// Rows that one pass makes: for each source, the factors of all of them.
pub(crate) struct Group {
    /// The first row.
    pub(crate) first: usize,
    /// How many.
    pub(crate) rows: usize,
    /// Their factors.
    pub(crate) table: Vec<Line>,
}

/// A matrix of factors for one path.
pub(crate) struct Tables {
    path: Path,
    rows: usize,
    columns: usize,
    groups: Vec<Group>,
}

impl Tables {
    /// Of a matrix of `columns` factors a row, at least one row.
    pub(crate) fn new(path: Path, matrix: &[u8], columns: usize) -> Self {
        let rows = matrix.len() / columns;
        let passes = rows.div_ceil(ROWS_MAX);
        let groups = (0..passes)
            .map(|pass| {
                // As even as can be: 8 rows are 4 and 4, not 6 and 2.
                let (first, end) = (rows * pass / passes, rows * (pass + 1) / passes);
                let mut bytes = Vec::new();
                for column in 0..columns {
                    for row in first..end {
                        let factor = matrix[row * columns + column];
                        if path.is_affine() {
                            bytes.extend_from_slice(&field::affine(factor).to_le_bytes());
                        } else {
                            bytes.extend_from_slice(&NIBBLES[usize::from(factor)]);
                        }
                    }
                }
                Group {
                    first,
                    rows: end - first,
                    table: lines(&bytes),
                }
            })
            .collect();
        Self {
            path,
            rows,
            columns,
            groups,
        }
    }

    pub(crate) fn path(&self) -> Path {
        self.path
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }
}

/// The nibble tables of every factor: 8 KiB, so that a new matrix costs copies and no arithmetic.
static NIBBLES: [[u8; 32]; 256] = {
    let mut all = [[0; 32]; 256];
    let mut factor = 0;
    while factor < 256 {
        all[factor] = field::nibbles(factor as u8);
        factor += 1;
    }
    all
};

fn lines(bytes: &[u8]) -> Vec<Line> {
    bytes
        .chunks(64)
        .map(|chunk| {
            let mut line = Line([0; 64]);
            line.0[..chunk.len()].copy_from_slice(chunk);
            line
        })
        .collect()
}
