//! Descriptors by name. Bookkeeping: nothing here makes a system call but the record's, and the close of what is forgotten.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use wire::WireError;

use super::record::{SharedRecord, Slot};

/// A descriptor that the store, a child's record and replies on their way share.
pub type Shared = Rc<OwnedFd>;

/// A kept descriptor and where the record has it.
#[derive(Debug)]
struct Item {
    fd: Shared,
    slot: Slot,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    names: BTreeMap<String, Item>,
    max: usize,
    record: SharedRecord,
}

/// Names of a `register` that the record has as pending, and what they replaced.
#[derive(Debug)]
#[must_use]
pub struct Pending {
    new: Vec<Slot>,
    old: Vec<Item>,
}

impl Store {
    /// An empty store with room for `max` descriptors.
    pub fn new(max: usize, record: SharedRecord) -> Store {
        Store {
            names: BTreeMap::new(),
            max,
            record,
        }
    }

    /// How many descriptors fit.
    pub fn max(&self) -> usize {
        self.max
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Keep a descriptor. `elsewhere`: descriptors that count against the limit but are not in the store.
    pub fn put(
        &mut self,
        name: &str,
        fd: Shared,
        replace: bool,
        elsewhere: usize,
    ) -> Result<(), WireError> {
        check_name(name)?;
        let exists = self.names.contains_key(name);
        if exists && !replace {
            return Err(WireError::new(
                "hold.exists",
                format!("{name} is kept already"),
            ));
        }
        if !exists {
            self.check_room(1, elsewhere)?;
        }
        let slot = self.record.borrow_mut().add_name(name, fd.as_raw_fd());
        let slot = slot.map_err(|error| WireError::step("hold.step", "record", &error))?;
        let old = self.names.insert(name.to_owned(), Item { fd, slot });
        self.forget(old);
        Ok(())
    }

    /// Keep a descriptor that ends with this process, whatever outlives it.
    pub fn put_for_life(&mut self, name: &str, fd: Shared) {
        let old = self.names.insert(name.to_owned(), Item { fd, slot: None });
        self.forget(old);
    }

    /// Whether there is such a name.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The record first: what it names is open.
    fn forget(&mut self, item: Option<Item>) -> bool {
        if let Some(item) = &item {
            self.record.borrow_mut().remove(item.slot);
        }
        item.is_some()
    }

    /// Keep all of them, replacing what had those names, or none.
    ///
    /// `number` is that of the child with which they will count in the record; then comes [`Store::settle`].
    pub fn put_all(
        &mut self,
        items: Vec<(String, Shared)>,
        elsewhere: usize,
        number: u64,
    ) -> Result<Pending, WireError> {
        let mut new = 0;
        for (at, (name, _)) in items.iter().enumerate() {
            check_name(name)?;
            if items[..at].iter().any(|(other, _)| other == name) {
                return Err(WireError::new(
                    "hold.bad-name",
                    format!("{name} stands twice"),
                ));
            }
            new += usize::from(!self.names.contains_key(name));
        }
        self.check_room(new, elsewhere)?;
        let mut slots = Vec::with_capacity(items.len());
        for (name, fd) in &items {
            let slot = self
                .record
                .borrow_mut()
                .add_pending(name, fd.as_raw_fd(), number);
            match slot {
                Ok(slot) => slots.push(slot),
                Err(error) => {
                    for slot in slots {
                        self.record.borrow_mut().remove(slot);
                    }
                    return Err(WireError::step("hold.step", "record", &error));
                }
            }
        }
        let mut pending = Pending {
            new: slots.clone(),
            old: Vec::new(),
        };
        for ((name, fd), slot) in items.into_iter().zip(slots) {
            pending
                .old
                .extend(self.names.insert(name, Item { fd, slot }));
        }
        Ok(pending)
    }

    /// The child of these names is in the record.
    pub fn settle(&mut self, pending: Pending) {
        for slot in pending.new {
            self.record.borrow_mut().settle(slot);
        }
        for item in pending.old {
            self.forget(Some(item));
        }
    }

    /// The descriptors of these names in this order, or the first missing name as an error.
    pub fn get(&self, names: &[String]) -> Result<Vec<Shared>, WireError> {
        let find = |name: &String| {
            let missing = || {
                WireError::new(
                    "hold.missing",
                    format!("nothing is kept as {}", shown(name)),
                )
            };
            self.names
                .get(name)
                .map(|item| item.fd.clone())
                .ok_or_else(missing)
        };
        names.iter().map(find).collect()
    }

    /// Names that begin with `prefix`, sorted.
    pub fn list(&self, prefix: &str) -> Vec<String> {
        let from_prefix = self.names.range::<str, _>((
            std::ops::Bound::Included(prefix),
            std::ops::Bound::Unbounded,
        ));
        from_prefix
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// Forget names; how many there were.
    pub fn drop_names(&mut self, names: &[String]) -> usize {
        let mut dropped = 0;
        for name in names {
            let item = self.names.remove(name);
            dropped += usize::from(self.forget(item));
        }
        dropped
    }

    /// Forget `name` if it still is this very descriptor.
    pub fn drop_exactly(&mut self, name: &str, fd: &Shared) {
        if self
            .names
            .get(name)
            .is_some_and(|kept| Rc::ptr_eq(&kept.fd, fd))
        {
            let item = self.names.remove(name);
            self.forget(item);
        }
    }

    /// Forget everything.
    pub fn clear(&mut self) {
        for item in std::mem::take(&mut self.names).into_values() {
            self.forget(Some(item));
        }
    }

    fn check_room(&self, new: usize, elsewhere: usize) -> Result<(), WireError> {
        if self.names.len() + elsewhere + new > self.max {
            let message = format!(
                "hold keeps {} descriptors and has room for no more than {}: its limit (RLIMIT_NOFILE) is {}",
                self.names.len() + elsewhere,
                self.max,
                wire::scarce::limit()
            );
            return Err(WireError::new("hold.full", message)
                .with_hint("end containers, or start the node with a higher limit: ulimit -n, or LimitNOFILE= of its unit"));
        }
        Ok(())
    }
}

/// Whether hold takes this name: `[A-Za-z0-9_.+:/@-]{1,255}`.
pub fn name_is_valid(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+:/@-".contains(&byte);
    (1..=255).contains(&name.len()) && name.bytes().all(plain)
}

/// `hold.bad-name` unless the name is valid.
pub fn check_name(name: &str) -> Result<(), WireError> {
    if name_is_valid(name) {
        return Ok(());
    }
    let hint = "1 to 255 of the characters A-Z a-z 0-9 _ . + : / @ -";
    Err(WireError::new("hold.bad-name", format!("{} is no name", shown(name))).with_hint(hint))
}

/// A peer's text, short and printable.
pub fn shown(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;

    fn fd() -> Shared {
        Rc::new(linux::memfd::sealed("t", b"").unwrap())
    }

    fn code<T: std::fmt::Debug>(result: Result<T, WireError>) -> String {
        result.unwrap_err().code
    }

    #[test]
    fn put_get_list_drop() {
        let mut store = Store::new(4, Record::none());
        for name in ["log/a/stdout", "log/b/stdout", "log"] {
            store.put(name, fd(), false, 0).unwrap();
        }
        assert_eq!(store.list("log/"), ["log/a/stdout", "log/b/stdout"]);
        assert_eq!(store.list("").len(), 3);
        assert!(store.list("z").is_empty());
        assert_eq!(code(store.put("log", fd(), false, 0)), "hold.exists");
        store.put("log", fd(), true, 0).unwrap();
        assert_eq!(code(store.get(&["log".into(), "x".into()])), "hold.missing");
        assert_eq!(store.get(&["log".into(), "log".into()]).unwrap().len(), 2);
        assert_eq!(
            store.drop_names(&["log".into(), "log".into(), "y".into()]),
            1
        );
    }

    #[test]
    fn all_or_none_and_the_limit() {
        let mut store = Store::new(2, Record::none());
        store.put("a", fd(), false, 0).unwrap();
        assert_eq!(code(store.put("b", fd(), false, 1)), "hold.full");
        let items = |names: &[&str]| {
            names
                .iter()
                .map(|name| ((*name).to_owned(), fd()))
                .collect::<Vec<_>>()
        };
        assert_eq!(code(store.put_all(items(&["b", "c"]), 0, 0)), "hold.full");
        assert_eq!(
            code(store.put_all(items(&["b", "b"]), 0, 0)),
            "hold.bad-name"
        );
        assert_eq!(
            code(store.put_all(items(&["b", ""]), 0, 0)),
            "hold.bad-name"
        );
        assert_eq!(store.len(), 1);
        let pending = store.put_all(items(&["a", "b"]), 0, 0).unwrap();
        store.settle(pending);
        store.put("b", fd(), true, 0).unwrap();
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn exactly_this_descriptor() {
        let mut store = Store::new(2, Record::none());
        let (old, new) = (fd(), fd());
        store.put("a", new.clone(), false, 0).unwrap();
        store.drop_exactly("a", &old);
        assert_eq!(store.len(), 1);
        store.drop_exactly("a", &new);
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn names() {
        assert!(name_is_valid("listen/port/web.1+a:b@c-d_e/0"));
        assert!(name_is_valid(&"a".repeat(255)));
        for bad in ["", "a b", "a\0", "ä", "a*", &"a".repeat(256)] {
            assert!(!name_is_valid(bad), "{bad:?}");
        }
    }
}
