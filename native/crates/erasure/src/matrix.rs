//! Matrices over the field: the two systematic generators, and inversion.

use crate::field;

/// Which generator matrix a code has. Shards of different matrices do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Matrix {
    /// Byte for byte that of ISA-L's `gf_gen_cauchy1_matrix` (ERASURE-MATRIX-1).
    Cauchy,
    /// That of Backblaze's JavaReedSolomon, klauspost/reedsolomon and reed-solomon-erasure (ERASURE-MATRIX-2).
    Vandermonde,
}

impl Matrix {
    /// By its name, `cauchy` or `vandermonde`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "cauchy" => Some(Self::Cauchy),
            "vandermonde" => Some(Self::Vandermonde),
            _ => None,
        }
    }

    /// The m rows of k factors that make parity.
    pub(crate) fn parity_rows(self, k: usize, m: usize) -> Vec<u8> {
        match self {
            Self::Cauchy => cauchy(k, m),
            Self::Vandermonde => vandermonde(k, m),
        }
    }
}

/// Row k + p, column j: the inverse of (k + p) xor j.
fn cauchy(k: usize, m: usize) -> Vec<u8> {
    (k..k + m)
        .flat_map(|row| (0..k).map(move |column| field::invert((row ^ column) as u8)))
        .collect()
}

/// Row r, column c of the first matrix: r to the power of c; times the inverse of its upper square, so that the upper
/// part is the identity.
fn vandermonde(k: usize, m: usize) -> Vec<u8> {
    let entry = |row: usize, column: usize| field::power(row as u8, column);
    let mut top: Vec<u8> = (0..k)
        .flat_map(|row| (0..k).map(move |column| entry(row, column)))
        .collect();
    let inverse =
        invert(&mut top, k).expect("k different points make a Vandermonde square regular");
    let mut rows = vec![0; m * k];
    for (row, made) in rows.chunks_exact_mut(k).enumerate() {
        for (column, cell) in made.iter_mut().enumerate() {
            *cell = (0..k).fold(0, |sum, at| {
                sum ^ field::multiply(entry(k + row, at), inverse[at * k + column])
            });
        }
    }
    rows
}

/// The inverse of the n x n matrix, row by row, by Gauss and Jordan; `matrix` is used up. None if it is singular.
pub(crate) fn invert(matrix: &mut [u8], n: usize) -> Option<Vec<u8>> {
    let mut inverse = vec![0; n * n];
    for at in 0..n {
        inverse[at * n + at] = 1;
    }
    for column in 0..n {
        let pivot = (column..n).find(|row| matrix[row * n + column] != 0)?;
        if pivot != column {
            for at in 0..n {
                matrix.swap(pivot * n + at, column * n + at);
                inverse.swap(pivot * n + at, column * n + at);
            }
        }
        let scale = field::invert(matrix[column * n + column]);
        if scale != 1 {
            for at in 0..n {
                matrix[column * n + at] = field::multiply(matrix[column * n + at], scale);
                inverse[column * n + at] = field::multiply(inverse[column * n + at], scale);
            }
        }
        for row in 0..n {
            let factor = matrix[row * n + column];
            if row == column || factor == 0 {
                continue;
            }
            for at in 0..n {
                matrix[row * n + at] ^= field::multiply(factor, matrix[column * n + at]);
                inverse[row * n + at] ^= field::multiply(factor, inverse[column * n + at]);
            }
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_singular_matrix_has_no_inverse() {
        assert_eq!(invert(&mut [1, 2, 1, 2], 2), None);
        assert_eq!(invert(&mut [0, 1, 1, 0], 2), Some(vec![0, 1, 1, 0]));
    }

    #[test]
    fn the_known_rows_of_4_2() {
        assert_eq!(
            Matrix::Cauchy.parity_rows(4, 2),
            [71, 167, 122, 186, 167, 71, 186, 122]
        );
        // Backblaze's and klauspost's 4+2.
        assert_eq!(
            Matrix::Vandermonde.parity_rows(4, 2),
            [27, 28, 18, 20, 28, 27, 20, 18]
        );
    }
}
