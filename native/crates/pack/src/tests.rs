//! Tests of the packer: order, duplicates, holes, limits, what changes while it is read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::write::RAW;
use crate::{
    Error, File, Finished, Options, Packer, Part, Unit, HOLE, KNOWN_PACK, PACK_MAX, UNIT_MAX,
};

/// A folder of its own for each test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("zos-pack-{}-{number}", std::process::id()));
        fs::create_dir_all(path.join("tree/sub")).expect("a folder");
        fs::create_dir_all(path.join("packs")).expect("a folder");
        Self(path)
    }

    fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }

    fn packs(&self) -> PathBuf {
        self.0.join("packs")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn seen<'a>(tree: &Path, path: &'a str) -> File<'a> {
    let status = fs::metadata(tree.join(path)).expect("a file");
    File {
        path: path.as_bytes(),
        size: status.len(),
        mtime_s: status.mtime(),
        mtime_ns: status.mtime_nsec() as u32,
    }
}

fn options(threads: usize) -> Options {
    Options {
        level: 3,
        threads,
        pack_max: PACK_MAX,
    }
}

fn pieces(file: u32, size: u64) -> Vec<Part> {
    (0..size)
        .step_by(UNIT_MAX)
        .map(|offset| Part {
            file,
            length: (size - offset).min(UNIT_MAX as u64) as u32,
            offset,
        })
        .collect()
}

/// Packs whole files as pieces; addresses and what was written.
fn pack(folder: &Folder, paths: &[&str], options: Options) -> Result<(Vec<u32>, Finished), Error> {
    let tree = folder.tree();
    let files: Vec<File<'_>> = paths.iter().map(|path| seen(&tree, path)).collect();
    let parts: Vec<Part> = files
        .iter()
        .enumerate()
        .flat_map(|(number, file)| pieces(number as u32, file.size))
        .collect();
    let units: Vec<Unit<'_>> = parts
        .chunks(1)
        .map(|parts| Unit { parts, piece: true })
        .collect();
    let mut packer = Packer::new(&folder.packs(), options, [])?;
    let addresses = packer.add(&tree, &files, &units)?;
    Ok((addresses, packer.finish()?))
}

#[test]
fn duplicates_and_holes_take_no_room() {
    let folder = Folder::new();
    let large = noise(UNIT_MAX + 5000, 1);
    fs::write(folder.tree().join("a"), &large).expect("write");
    fs::write(folder.tree().join("sub/b"), &large).expect("write");
    fs::write(folder.tree().join("zero"), vec![0; UNIT_MAX + 1]).expect("write");
    let (addresses, finished) = pack(&folder, &["a", "sub/b", "zero"], options(2)).expect("packed");
    assert_eq!(addresses, [0, 64, 0, 64, HOLE, HOLE]);
    assert_eq!(finished.blocks, 66);
    assert_eq!(finished.units.len(), 2);
    assert_eq!(finished.packs.len(), 1);
    let bytes = fs::read(
        folder
            .packs()
            .join(blake3::Hash::from(finished.packs[0]).to_hex().as_str()),
    )
    .expect("the pack");
    assert_eq!(blake3::hash(&bytes).as_bytes(), &finished.packs[0]);
    assert_eq!(
        finished.units[0].stored,
        UNIT_MAX as u32 | RAW,
        "noise is stored raw"
    );
    assert_eq!(bytes, large);
}

#[test]
fn threads_change_nothing() {
    let folder = Folder::new();
    let mut names = Vec::new();
    for number in 0..200_u64 {
        // Every third file is one that came before, so that threads race for who compresses it.
        let name = format!("sub/{number:03}");
        let mut content = noise(70_000, number - number % 3 * u64::from(number % 2 == 0));
        content.extend(vec![b'x'; 100_000]);
        fs::write(folder.tree().join(&name), content).expect("write");
        names.push(name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (addresses, one) = pack(&folder, &names, options(1)).expect("packed");
    for threads in [2, 3, 16] {
        let (others, more) = pack(&folder, &names, options(threads)).expect("packed");
        assert_eq!(addresses, others);
        assert_eq!(one.packs, more.packs);
        assert_eq!(one.units, more.units);
    }
}

#[test]
fn a_new_pack_begins_where_the_old_one_is_full() {
    let folder = Folder::new();
    fs::write(folder.tree().join("a"), noise(3 * UNIT_MAX, 3)).expect("write");
    let small = Options {
        pack_max: UNIT_MAX as u64 + 1,
        ..options(2)
    };
    let (_, finished) = pack(&folder, &["a"], small).expect("packed");
    assert_eq!(finished.packs.len(), 3);
    let places: Vec<_> = finished
        .units
        .iter()
        .map(|unit| (unit.pack, unit.offset))
        .collect();
    assert_eq!(places, [(0, 0), (1, 0), (2, 0)]);
    assert_eq!(fs::read_dir(folder.packs()).expect("a folder").count(), 3);
}

#[test]
fn known_units_get_addresses_and_are_not_written() {
    let folder = Folder::new();
    let content = noise(5000, 4);
    fs::write(folder.tree().join("a"), &content).expect("write");
    let known = *blake3::hash(&content).as_bytes();
    let tree = folder.tree();
    let files = [seen(&tree, "a")];
    let parts = pieces(0, 5000);
    let unit = Unit {
        parts: &parts,
        piece: false,
    };
    let mut packer = Packer::new(&folder.packs(), options(1), [known]).expect("a packer");
    assert_eq!(
        packer.add(&tree, &files, &[unit, unit]).expect("packed"),
        [0, 0]
    );
    let finished = packer.finish().expect("finished");
    assert_eq!(finished.packs.len(), 0);
    assert_eq!(
        (finished.units[0].hash, finished.units[0].pack),
        (known, KNOWN_PACK)
    );
    assert_eq!(finished.blocks, 2);
}

#[test]
fn the_parts_of_a_bundle_are_padded() {
    let folder = Folder::new();
    for (name, length) in [("a", 1), ("b", 4096), ("c", 5000)] {
        fs::write(folder.tree().join(name), vec![b'z'; length]).expect("write");
    }
    let tree = folder.tree();
    let files = [seen(&tree, "a"), seen(&tree, "b"), seen(&tree, "c")];
    let parts: Vec<Part> = (0..3)
        .map(|file| Part {
            file,
            length: files[file as usize].size as u32,
            offset: 0,
        })
        .collect();
    let units = [Unit {
        parts: &parts,
        piece: false,
    }];
    let mut packer = Packer::new(&folder.packs(), options(1), []).expect("a packer");
    packer.add(&tree, &files, &units).expect("packed");
    let finished = packer.finish().expect("finished");
    let mut plain = vec![b'z'];
    plain.resize(4096, 0);
    plain.extend(vec![b'z'; 4096 + 5000]);
    assert_eq!(finished.units[0].length as usize, plain.len());
    assert_eq!(finished.units[0].hash, *blake3::hash(&plain).as_bytes());
    assert_eq!(finished.blocks, 4);
}

#[test]
fn a_file_that_is_not_what_was_seen_is_refused() {
    let folder = Folder::new();
    let tree = folder.tree();
    fs::write(tree.join("a"), b"content").expect("write");
    let good = seen(&tree, "a");
    let wrong = [
        File { size: 8, ..good },
        File { size: 6, ..good },
        File {
            mtime_ns: good.mtime_ns ^ 1,
            ..good
        },
        File {
            mtime_s: good.mtime_s + 1,
            ..good
        },
        File {
            path: b"gone",
            ..good
        },
        File {
            path: b"a/below",
            ..good
        },
        File {
            path: b"sub",
            ..good
        },
    ];
    for file in wrong {
        let parts = pieces(0, file.size.min(6));
        let unit = Unit {
            parts: &parts,
            piece: false,
        };
        let mut packer = Packer::new(&folder.packs(), options(2), []).expect("a packer");
        let result = packer.add(&tree, &[file], &[unit]);
        assert!(
            matches!(result, Err(Error::Changed { .. })),
            "{file:?}: {result:?}"
        );
    }
}

#[test]
fn paths_cannot_leave_the_tree() {
    let folder = Folder::new();
    let tree = folder.tree();
    fs::write(folder.0.join("outside"), b"content").expect("write");
    std::os::unix::fs::symlink(&folder.0, tree.join("link")).expect("a link");
    let outside = File {
        path: b"",
        ..seen(&folder.0, "outside")
    };
    for path in [
        &b"../outside"[..],
        b"link/outside",
        b"sub/../../outside",
        b"/etc/hostname",
    ] {
        let file = File { path, ..outside };
        let parts = pieces(0, 7);
        let unit = Unit {
            parts: &parts,
            piece: false,
        };
        let mut packer = Packer::new(&folder.packs(), options(1), []).expect("a packer");
        packer.add(&tree, &[file], &[unit]).expect_err("refused");
    }
}

#[test]
fn arguments_out_of_their_limits_are_refused() {
    let folder = Folder::new();
    let tree = folder.tree();
    fs::write(tree.join("a"), b"content").expect("write");
    let files = [seen(&tree, "a")];
    let part = |file, length, offset| Part {
        file,
        length,
        offset,
    };
    let wrong: [&[Part]; 5] = [
        &[],
        &[part(1, 7, 0)],
        &[part(0, 8, 0)],
        &[part(0, 7, u64::MAX)],
        &[part(0, 0, 0)],
    ];
    for parts in wrong {
        let unit = Unit { parts, piece: true };
        let mut packer = Packer::new(&folder.packs(), options(1), []).expect("a packer");
        assert!(matches!(
            packer.add(&tree, &files, &[unit]),
            Err(Error::Argument(_))
        ));
    }
    for bad in [
        options(0),
        options(65),
        Options {
            level: 99,
            ..options(1)
        },
        Options {
            pack_max: 5,
            ..options(1)
        },
    ] {
        assert!(Packer::new(&folder.packs(), bad, []).is_err());
    }
}

#[test]
fn a_pack_that_cannot_be_written_is_an_error() {
    let folder = Folder::new();
    fs::write(folder.tree().join("a"), noise(1000, 9)).expect("write");
    fs::remove_dir(folder.packs()).expect("removed");
    let result = pack(&folder, &["a"], options(2));
    assert!(matches!(result, Err(Error::Write { .. })), "{result:?}");
}
