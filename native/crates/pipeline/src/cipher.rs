//! The cipher of a chunk, with a key of its own for each (PIPELINE-SEAL-1 to 3): no nonce can come twice.

use ring::aead::{Aad, LessSafeKey, Nonce, Tag, UnboundKey, AES_256_GCM, CHACHA20_POLY1305};

use crate::layout::HEADER_BYTES;
use crate::KEY_BYTES;

/// Bytes of a salt.
pub const SALT_BYTES: usize = 24;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
const SALT_CONTEXT: &str = "zos pipeline 1: salt of a chunk";
const KEY_CONTEXT: &str = "zos pipeline 1: key of a chunk";

/// A cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305 of RFC 8439.
    ChaCha20Poly1305,
}

impl Cipher {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// The cipher of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.name() == name)
    }

    /// Its number in flags and keys, 0 for none.
    pub(crate) fn number(cipher: Option<Self>) -> u8 {
        match cipher {
            None => 0,
            Some(Self::Aes256Gcm) => 1,
            Some(Self::ChaCha20Poly1305) => 2,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Option<Self>> {
        match number {
            0 => Some(None),
            1 => Some(Some(Self::Aes256Gcm)),
            2 => Some(Some(Self::ChaCha20Poly1305)),
            _ => None,
        }
    }
}

/// What the caller's key became.
pub struct Keys {
    cipher: Cipher,
    salt: [u8; KEY_BYTES],
    chunk: [u8; KEY_BYTES],
}

impl Keys {
    /// Of a key.
    pub fn new(cipher: Cipher, key: &[u8; KEY_BYTES]) -> Self {
        Self {
            cipher,
            salt: blake3::derive_key(SALT_CONTEXT, key),
            chunk: blake3::derive_key(KEY_CONTEXT, key),
        }
    }

    /// The cipher.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Encrypts the body in place.
    pub fn seal(&self, header: &[u8; HEADER_BYTES], body: &mut [u8]) -> ([u8; SALT_BYTES], Tag) {
        let mut hasher = blake3::Hasher::new_keyed(&self.salt);
        let digest = hasher.update(body).update(header).finalize();
        let mut salt = [0; SALT_BYTES];
        salt.copy_from_slice(&digest.as_bytes()[..SALT_BYTES]);
        let aad = Aad::from(aad(header, &salt));
        let tag = self
            .key(&salt)
            .seal_in_place_separate_tag(nonce(), aad, body)
            .expect("a body has 1 MiB at most");
        (salt, tag)
    }

    /// Decrypts the body in place; None if key, header, salt, body or tag is not what it was.
    pub fn open(
        &self,
        header: &[u8; HEADER_BYTES],
        salt: &[u8; SALT_BYTES],
        body: &mut [u8],
        tag: [u8; TAG_BYTES],
    ) -> Option<()> {
        let aad = Aad::from(aad(header, salt));
        self.key(salt)
            .open_in_place_separate_tag(nonce(), aad, Tag::from(tag), body, 0..)
            .ok()
            .map(drop)
    }

    /// The key that seals one body and no other.
    fn key(&self, salt: &[u8; SALT_BYTES]) -> LessSafeKey {
        let mut input = [0; SALT_BYTES + 1];
        input[..SALT_BYTES].copy_from_slice(salt);
        input[SALT_BYTES] = Cipher::number(Some(self.cipher));
        let key = blake3::keyed_hash(&self.chunk, &input);
        let algorithm = match self.cipher {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        LessSafeKey::new(
            UnboundKey::new(algorithm, key.as_bytes()).expect("both ciphers have keys of 32 bytes"),
        )
    }
}

/// A key seals one body alone, so every nonce may be the same.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn aad(header: &[u8; HEADER_BYTES], salt: &[u8; SALT_BYTES]) -> [u8; HEADER_BYTES + SALT_BYTES] {
    let mut aad = [0; HEADER_BYTES + SALT_BYTES];
    aad[..HEADER_BYTES].copy_from_slice(header);
    aad[HEADER_BYTES..].copy_from_slice(salt);
    aad
}
