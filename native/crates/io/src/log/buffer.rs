//! The memory through which every chunk goes, kept in hold: a take, then one frame as it is written to a file.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use linux::mapping::Mapping;
use rustix::fs::{MemfdFlags, SealFlags};

use super::record::{Take, FILL_SIZE, TAKE_SIZE};

/// Bytes of the largest chunk.
pub const CHUNK_MAX: usize = 65_536;
/// Bytes before the data of a frame.
pub const FRAME_HEADER: usize = 16;

const FRAME_AT: usize = 4096;
const DATA_AT: usize = FRAME_AT + FRAME_HEADER;
const SIZE: usize = 4096 + CHUNK_MAX + 4096;

/// The memory.
#[derive(Debug)]
pub struct Buffer {
    memfd: OwnedFd,
    mapping: Mapping,
    take: Take,
    random: u64,
}

impl Buffer {
    /// A new one, for hold to keep. `seed`: any number that a container cannot know.
    pub fn create(seed: u64) -> io::Result<Buffer> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("zos-logbuffer", flags)?;
        rustix::fs::ftruncate(&memfd, SIZE as u64)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memfd, seals)?;
        Buffer::open(memfd, seed)
    }

    /// That of a predecessor.
    pub fn open(memfd: OwnedFd, seed: u64) -> io::Result<Buffer> {
        let mapping = Mapping::shared(&memfd, SIZE)?;
        let mut bytes = [0; TAKE_SIZE];
        mapping.read(0, &mut bytes);
        let take = Take::decode(&bytes);
        let take = take.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "a log buffer of another version",
            )
        })?;
        Ok(Buffer {
            memfd,
            mapping,
            take,
            random: seed,
        })
    }

    /// The take that was begun last.
    pub fn last(&self) -> &Take {
        &self.take
    }

    /// For hold.
    pub fn memfd(&self) -> &OwnedFd {
        &self.memfd
    }

    /// Begin a take of `take.length` bytes; its number and fill are set here. From now on a successor knows of it.
    pub fn begin(&mut self, mut take: Take) -> io::Result<()> {
        take.number = self.take.number + 1;
        for half in take.fill.chunks_exact_mut(8) {
            half.copy_from_slice(&self.next_random().to_le_bytes());
        }
        let length = (take.length as usize).min(CHUNK_MAX);
        let pattern = take.fill.repeat(length.div_ceil(FILL_SIZE));
        self.mapping.write(DATA_AT, &pattern[..length]);
        if rustix::io::pwrite(&self.memfd, &take.encode(), 0)? != TAKE_SIZE {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.take = take;
        Ok(())
    }

    /// Read what was announced; how much there was.
    pub fn read(&mut self, pipe: impl AsFd) -> io::Result<usize> {
        self.mapping
            .read_from(pipe, DATA_AT, (self.take.length as usize).min(CHUNK_MAX))
    }

    /// How much the predecessor has read of the take that it left behind.
    pub fn taken(&self) -> usize {
        let mut data = vec![0; (self.take.length as usize).min(CHUNK_MAX)];
        self.mapping.read(DATA_AT, &mut data);
        self.take.taken(&data)
    }

    /// Write the frame of the first `length` bytes at the place of the take; its size in the file.
    pub fn write_frame(&mut self, file: impl AsFd, length: usize) -> io::Result<u64> {
        let header = frame_header(length as u32, self.take.stream, self.take.time_ns);
        self.mapping.write(FRAME_AT, &header);
        let padded = length.next_multiple_of(8);
        self.mapping
            .write(DATA_AT + length, &[0; 8][..padded - length]);
        let total = FRAME_HEADER + padded;
        let mut done = 0;
        while done < total {
            let offset = self.take.offset + done as u64;
            match self
                .mapping
                .pwrite_to(&file, FRAME_AT + done, total - done, offset)
            {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
            }
        }
        Ok(total as u64)
    }

    /// xorshift64*: no secret, only something that is not in the pipe by chance.
    fn next_random(&mut self) -> u64 {
        let mut x = self.random | 1;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random = x;
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// LOG-FRAME-1.
pub fn frame_header(length: u32, stream: u8, time_ns: u64) -> [u8; FRAME_HEADER] {
    let mut header = [0; FRAME_HEADER];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = stream;
    header[8..].copy_from_slice(&time_ns.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(length: u32) -> Take {
        Take {
            time_ns: 7,
            offset: 32,
            seq: 1,
            length,
            stream: 2,
            name: "a".into(),
            ..Take::default()
        }
    }

    #[test]
    fn a_successor_finds_what_was_read() {
        let mut one = Buffer::create(1).unwrap();
        let (out, into) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&into, b"hello").unwrap();
        one.begin(take(5)).unwrap();
        let before = Buffer::open(one.memfd.try_clone().unwrap(), 2).unwrap();
        assert_eq!((before.last().number, before.taken()), (1, 0));
        assert_eq!(one.read(&out).unwrap(), 5);
        let mut after = Buffer::open(one.memfd.try_clone().unwrap(), 2).unwrap();
        assert_eq!((after.last().number, after.taken()), (1, 5));
        let file = rustix::fs::memfd_create("f", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(after.write_frame(&file, 5).unwrap(), 24);
        let mut bytes = [0; 24];
        assert_eq!(rustix::io::pread(&file, &mut bytes, 32).unwrap(), 24);
        assert_eq!(
            &bytes[..16],
            &[5, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(&bytes[16..], b"hello\0\0\0");
        after.begin(take(CHUNK_MAX as u32)).unwrap();
        assert_eq!((after.last().number, after.taken()), (2, 0));
    }

    #[test]
    fn foreign_memory_is_refused() {
        let memfd = rustix::fs::memfd_create("f", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memfd, SIZE as u64).unwrap();
        rustix::io::pwrite(&memfd, b"other", 0).unwrap();
        assert!(Buffer::open(memfd, 1).is_err());
    }
}
