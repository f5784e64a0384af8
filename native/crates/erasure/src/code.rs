//! A Reed-Solomon code of k data and m parity shards.

use std::sync::Arc;

use crate::error::{Error, Shown};
use crate::inverse::{mask, Inverses, Mask};
use crate::kernel::span::{Source, Target};
use crate::kernel::tables::Tables;
use crate::kernel::task::{Output, Task, THREADS_MAX};
use crate::kernel::{Path, Store};
use crate::matrix::{self, Matrix};
use crate::{field, K_MAX, M_MAX, SHARDS_MAX, STREAMING_BYTES_MIN};

/// A code: what was precomputed for its shape, and the inverses that were needed so far.
pub struct Code {
    k: usize,
    m: usize,
    path: Path,
    streaming: Option<bool>,
    rows: Vec<u8>,
    encoder: Arc<Tables>,
    inverses: Inverses,
}

/// Which shards make which in one code: the survivors that are read, and the tables, if they were kept.
pub struct Repair {
    /// The encoder of the code that made it, and no other's.
    of: Arc<Tables>,
    survivors: Vec<usize>,
    lost: Vec<usize>,
    tables: Option<Arc<Tables>>,
}

impl Repair {
    /// Whether an inversion is still to be done.
    pub fn is_pending(&self) -> bool {
        self.tables.is_none()
    }

    /// Whether `code` made it, for a call in which these k shards, ascending, are read.
    pub fn serves(&self, code: &Code, survivors: &[usize]) -> bool {
        Arc::ptr_eq(&self.of, &code.encoder) && self.survivors == survivors
    }

    fn key(&self) -> (Mask, Mask) {
        (mask(&self.survivors), mask(&self.lost))
    }
}

impl Code {
    /// A code of k data and m parity shards.
    ///
    /// `path` None takes the fastest; `streaming` None decides for each call by its size, Some forces the kind of store.
    ///
    /// # Errors
    ///
    /// The shape is out of ERASURE-SHAPE-1, or the path is not available.
    pub fn new(
        k: usize,
        m: usize,
        matrix: Matrix,
        path: Option<Path>,
        streaming: Option<bool>,
    ) -> Result<Self, Error> {
        if !(1..=K_MAX).contains(&k) || !(1..=M_MAX).contains(&m) || k + m > SHARDS_MAX {
            return Err(Error::Shape(format!(
                "data shards must be 1 to {K_MAX}, parity shards 1 to {M_MAX}, together at most {SHARDS_MAX}"
            )));
        }
        let path = path.unwrap_or_else(Path::best);
        if !path.is_available() {
            let text = format!(
                "this machine has not the instructions of the path {}",
                path.name()
            );
            return Err(Error::Path(text));
        }
        let rows = matrix.parity_rows(k, m);
        Ok(Self {
            k,
            m,
            path,
            streaming,
            encoder: Arc::new(Tables::new(path, &rows, k)),
            rows,
            inverses: Inverses::new(k, m),
        })
    }

    /// Number of data shards.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Number of parity shards.
    pub fn m(&self) -> usize {
        self.m
    }

    /// The path it takes.
    pub fn path(&self) -> Path {
        self.path
    }

    /// The m x k factors, row by row.
    pub fn parity_rows(&self) -> &[u8] {
        &self.rows
    }

    /// Makes the parity of the data (ERASURE-ENCODE-1).
    ///
    /// # Errors
    ///
    /// Counts, lengths, overlaps or threads are wrong.
    pub fn encode<'a>(
        &self,
        data: Vec<Source<'a>>,
        parity: Vec<Target<'a>>,
        threads: usize,
    ) -> Result<Task<'a>, Error> {
        count("data", data.len(), self.k)?;
        count("parity", parity.len(), self.m)?;
        self.task(
            Arc::clone(&self.encoder),
            data,
            Output::Write(parity),
            threads,
        )
    }

    /// How long the parity of these data is: finds what is wrong before memory is taken for it.
    ///
    /// # Errors
    ///
    /// Counts, lengths or threads are wrong.
    pub fn parity_length(&self, data: &[Source<'_>], threads: usize) -> Result<usize, Error> {
        count("data", data.len(), self.k)?;
        let length = same_length(data, &[])?;
        threads_are(threads).map(|()| length)
    }

    /// The same of shards that are made from as many as `indexes` names; 0 where none is lost.
    ///
    /// # Errors
    ///
    /// Counts, lengths or threads are wrong.
    pub fn lost_length(
        &self,
        (indexes, shards): (&[usize], &[Source<'_>]),
        lost: &[usize],
        threads: usize,
    ) -> Result<usize, Error> {
        count("shards", shards.len(), indexes.len())?;
        threads_are(threads)?;
        match lost {
            [] => Ok(0),
            _ => same_length(shards, &[]),
        }
    }

    /// Which survivors will be read for `lost`; `indexes` are those of the shards at hand (ERASURE-REPAIR-1).
    ///
    /// # Errors
    ///
    /// An index is wrong or there twice, or there are too few shards.
    pub fn repair(&self, indexes: &[usize], lost: &[usize]) -> Result<Repair, Error> {
        let mut repair = self.plan(indexes, lost)?;
        let (survivors, lost) = repair.key();
        repair.tables = self.inverses.get(survivors, lost);
        Ok(repair)
    }

    /// As `repair`, but without a look at what was kept: touches no lock, for who keeps repairs by himself.
    ///
    /// # Errors
    ///
    /// As `repair`.
    pub fn plan(&self, indexes: &[usize], lost: &[usize]) -> Result<Repair, Error> {
        let mut seen = [false; SHARDS_MAX];
        for &index in indexes.iter().chain(lost) {
            if index >= self.k + self.m {
                let text = format!(
                    "there is no shard {} in {} + {}",
                    Shown(index),
                    self.k,
                    self.m
                );
                return Err(Error::Index(text));
            }
            if std::mem::replace(&mut seen[index], true) {
                return Err(Error::Index(format!("shard {index} is named twice")));
            }
        }
        if indexes.len() < self.k {
            return Err(Error::TooFew {
                have: indexes.len(),
                need: self.k,
            });
        }
        let mut survivors = indexes.to_vec();
        survivors.sort_unstable();
        survivors.truncate(self.k);
        let mut repair = Repair {
            of: Arc::clone(&self.encoder),
            survivors,
            lost: lost.to_vec(),
            tables: None,
        };
        repair.lost.sort_unstable();
        Ok(repair)
    }

    /// Inverts, if it was not kept: up to some milliseconds for the largest shapes. Touches no lock.
    ///
    /// # Errors
    ///
    /// Never with either matrix: every k rows of them are independent.
    pub fn solve(&self, repair: &mut Repair) -> Result<(), Error> {
        if repair.tables.is_some() || repair.lost.is_empty() {
            return Ok(());
        }
        let k = self.k;
        let mut square = vec![0; k * k];
        for (row, &index) in square.chunks_exact_mut(k).zip(&repair.survivors) {
            if index < k {
                row[index] = 1;
            } else {
                row.copy_from_slice(&self.rows[(index - k) * k..][..k]);
            }
        }
        let inverse = matrix::invert(&mut square, k)
            .ok_or_else(|| Error::Panicked("the survivors' rows are singular".into()))?;
        let mut rows = vec![0; repair.lost.len() * k];
        for (row, &index) in rows.chunks_exact_mut(k).zip(&repair.lost) {
            if index < k {
                row.copy_from_slice(&inverse[index * k..][..k]);
                continue;
            }
            let factors = &self.rows[(index - k) * k..][..k];
            for (&factor, made) in factors.iter().zip(inverse.chunks_exact(k)) {
                for (cell, &value) in row.iter_mut().zip(made) {
                    *cell ^= field::multiply(factor, value);
                }
            }
        }
        repair.tables = Some(Arc::new(Tables::new(self.path, &rows, k)));
        Ok(())
    }

    /// Keeps what was solved for the next time.
    pub fn keep(&self, repair: &Repair) {
        if let Some(tables) = &repair.tables {
            let (survivors, lost) = repair.key();
            self.inverses.put(survivors, lost, Arc::clone(tables));
        }
    }

    /// Makes the lost shards from those at hand. `indexes` and `lost` are as they were given to `repair`.
    ///
    /// # Errors
    ///
    /// Counts, lengths, overlaps or threads are wrong; the repair is another code's, of other shards, or not solved.
    pub fn reconstruct<'a>(
        &self,
        repair: &Repair,
        (indexes, shards): (&[usize], Vec<Source<'a>>),
        (lost, targets): (&[usize], Vec<Target<'a>>),
        threads: usize,
    ) -> Result<Option<Task<'a>>, Error> {
        count("shards", shards.len(), indexes.len())?;
        count("lost shards", targets.len(), lost.len())?;
        threads_are(threads)?;
        if lost.is_empty() {
            return Ok(None);
        }
        let unfit = |what: &str| Error::Repair(format!("the repair {what}"));
        let tables = repair
            .tables
            .clone()
            .ok_or_else(|| unfit("was not solved"))?;
        // Shards at hand that are not read count for lengths and overlaps all the same.
        let length = same_length(&shards, &targets)?;
        no_overlap(&shards, &targets)?;
        let mut by_index: Vec<_> = indexes.iter().copied().zip(shards).collect();
        by_index.sort_unstable_by_key(|(index, _)| *index);
        let (read, sources): (Vec<_>, Vec<_>) = by_index.into_iter().take(self.k).unzip();
        if !repair.serves(self, &read) {
            return Err(unfit("is of another code, or reads other shards"));
        }
        let mut by_lost: Vec<_> = lost.iter().copied().zip(targets).collect();
        by_lost.sort_unstable_by_key(|(index, _)| *index);
        let (made, targets): (Vec<_>, Vec<_>) = by_lost.into_iter().unzip();
        if made != repair.lost {
            return Err(unfit("makes other shards"));
        }
        self.checked(tables, sources, Output::Write(targets), length, threads)
            .map(Some)
    }

    /// Adds what data shard `index` changed by, from `old` to `new`, to every parity shard (ERASURE-UPDATE-1).
    ///
    /// # Errors
    ///
    /// The index, counts, lengths, overlaps or threads are wrong.
    pub fn update<'a>(
        &self,
        index: usize,
        old: Source<'a>,
        new: Source<'a>,
        parity: Vec<Target<'a>>,
        threads: usize,
    ) -> Result<Task<'a>, Error> {
        if index >= self.k {
            let text = format!(
                "there is no data shard {} in {} + {}",
                Shown(index),
                self.k,
                self.m
            );
            return Err(Error::Index(text));
        }
        count("parity", parity.len(), self.m)?;
        let column = self.rows.iter().skip(index).step_by(self.k);
        let twice: Vec<u8> = column.flat_map(|factor| [*factor; 2]).collect();
        let tables = Arc::new(Tables::new(self.path, &twice, 2));
        self.task(tables, vec![old, new], Output::Add(parity), threads)
    }

    /// Compares the parity with the data; `Task::run` answers with the set of parity shards that are wrong
    /// (ERASURE-VERIFY-1).
    ///
    /// # Errors
    ///
    /// Counts, lengths or threads are wrong.
    pub fn verify<'a>(
        &self,
        data: Vec<Source<'a>>,
        parity: Vec<Source<'a>>,
        threads: usize,
    ) -> Result<Task<'a>, Error> {
        count("data", data.len(), self.k)?;
        count("parity", parity.len(), self.m)?;
        self.task(
            Arc::clone(&self.encoder),
            data,
            Output::Compare(parity),
            threads,
        )
    }

    fn task<'a>(
        &self,
        tables: Arc<Tables>,
        sources: Vec<Source<'a>>,
        output: Output<'a>,
        threads: usize,
    ) -> Result<Task<'a>, Error> {
        let length = match &output {
            Output::Write(targets) | Output::Add(targets) => {
                let length = same_length(&sources, targets)?;
                no_overlap(&sources, targets)?;
                length
            }
            Output::Compare(expected) => same_length(&[&sources[..], expected].concat(), &[])?,
        };
        self.checked(tables, sources, output, length, threads)
    }

    fn checked<'a>(
        &self,
        tables: Arc<Tables>,
        sources: Vec<Source<'a>>,
        output: Output<'a>,
        length: usize,
        threads: usize,
    ) -> Result<Task<'a>, Error> {
        threads_are(threads)?;
        let large = length.saturating_mul(sources.len()) >= STREAMING_BYTES_MIN;
        Ok(Task {
            tables,
            sources,
            output,
            length,
            store: if self.streaming.unwrap_or(large) {
                Store::Streaming
            } else {
                Store::Cached
            },
            threads,
        })
    }
}

fn threads_are(threads: usize) -> Result<(), Error> {
    match threads {
        1..=THREADS_MAX => Ok(()),
        _ => Err(Error::Threads),
    }
}

fn count(what: &str, have: usize, need: usize) -> Result<(), Error> {
    if have != need {
        return Err(Error::Count(format!(
            "{what}: {have} buffers where {need} are needed"
        )));
    }
    Ok(())
}

pub(crate) fn same_length(sources: &[Source<'_>], targets: &[Target<'_>]) -> Result<usize, Error> {
    let mut lengths = sources
        .iter()
        .map(Source::length)
        .chain(targets.iter().map(Target::length));
    let first = lengths.next().unwrap_or(0);
    if let Some(other) = lengths.find(|length| *length != first) {
        let text = format!("shards of {first} and of {other} bytes: all must have the same length");
        return Err(Error::Length(text));
    }
    if first == 0 {
        return Err(Error::Empty);
    }
    Ok(first)
}

/// Targets share no byte with a source or with each other; sources may be the same.
pub(crate) fn no_overlap(sources: &[Source<'_>], targets: &[Target<'_>]) -> Result<(), Error> {
    for (row, target) in targets.iter().enumerate() {
        let place = target.place();
        let meets =
            |other: std::ops::Range<usize>| place.start < other.end && other.start < place.end;
        if let Some(at) = sources.iter().position(|source| meets(source.place())) {
            let text = format!("output {row} overlaps input {at}");
            return Err(Error::Overlap(text));
        }
        if let Some(at) = targets[..row]
            .iter()
            .position(|target| meets(target.place()))
        {
            return Err(Error::Overlap(format!("outputs {at} and {row} overlap")));
        }
    }
    Ok(())
}
