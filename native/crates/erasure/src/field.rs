//! The field GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d) and the generator 2 (ERASURE-FIELD-1).

/// x^8 + x^4 + x^3 + x^2 + 1.
pub const POLYNOMIAL: u16 = 0x11d;

/// Powers of the generator, twice over, so that the sum of two logarithms needs no reduction.
const POWERS: [u8; 510] = powers();
/// Logarithms of 1 to 255; the entry of 0 has no meaning.
const LOGARITHMS: [u8; 256] = logarithms();

const fn powers() -> [u8; 510] {
    let mut table = [0; 510];
    let mut value = 1u16;
    let mut at = 0;
    while at < 255 {
        table[at] = value as u8;
        table[at + 255] = value as u8;
        value <<= 1;
        if value & 0x100 != 0 {
            value ^= POLYNOMIAL;
        }
        at += 1;
    }
    table
}

const fn logarithms() -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 255 {
        table[POWERS[at] as usize] = at as u8;
        at += 1;
    }
    table
}

/// The product.
#[inline]
pub const fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    POWERS[LOGARITHMS[a as usize] as usize + LOGARITHMS[b as usize] as usize]
}

/// The multiplicative inverse; 0 for 0, as ISA-L's `gf_inv` has it.
pub const fn invert(a: u8) -> u8 {
    if a == 0 {
        return 0;
    }
    POWERS[255 - LOGARITHMS[a as usize] as usize]
}

/// `a` to the power of `n`, with 0 to the power of 0 being 1.
pub const fn power(a: u8, n: usize) -> u8 {
    if n == 0 {
        return 1;
    }
    if a == 0 {
        return 0;
    }
    POWERS[(LOGARITHMS[a as usize] as usize * (n % 255)) % 255]
}

/// Products of `factor` with 0..16 and with 0, 16, .. 240: the two tables of a nibble-wise multiplication.
pub const fn nibbles(factor: u8) -> [u8; 32] {
    let mut table = [0; 32];
    let mut at = 0;
    while at < 16 {
        table[at] = multiply(factor, at as u8);
        table[at + 16] = multiply(factor, (at << 4) as u8);
        at += 1;
    }
    table
}

/// The multiplication by `factor` as the 8x8 bit matrix of GF2P8AFFINEQB (Intel SDM, volume 2): bit i of the product
/// is the parity of the byte 7 - i and the operand.
pub const fn affine(factor: u8) -> u64 {
    let mut matrix = [0u8; 8];
    let mut column = 0;
    while column < 8 {
        let product = multiply(factor, 1 << column);
        let mut bit = 0;
        while bit < 8 {
            matrix[7 - bit] |= (product >> bit & 1) << column;
            bit += 1;
        }
        column += 1;
    }
    u64::from_le_bytes(matrix)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Schoolbook multiplication, which shares nothing with the tables.
    fn slow(a: u8, b: u8) -> u8 {
        let mut product = 0u16;
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                product ^= u16::from(a) << bit;
            }
        }
        for bit in (8..16).rev() {
            if product >> bit & 1 == 1 {
                product ^= POLYNOMIAL << (bit - 8);
            }
        }
        product as u8
    }

    #[test]
    fn products_nibbles_and_affine_matrices_agree_with_the_schoolbook() {
        for a in 0..=255u8 {
            let (tables, matrix) = (nibbles(a), affine(a).to_le_bytes());
            for b in 0..=255u8 {
                let expected = slow(a, b);
                assert_eq!(multiply(a, b), expected);
                let (low, high) = (usize::from(b & 15), usize::from(b >> 4));
                assert_eq!(tables[low] ^ tables[16 + high], expected);
                let by_matrix = (0..8).fold(0, |sum, bit| {
                    sum | ((matrix[7 - bit] & b).count_ones() as u8 & 1) << bit
                });
                assert_eq!(by_matrix, expected);
            }
        }
    }

    #[test]
    fn inverses_and_powers() {
        assert_eq!(invert(0), 0);
        for a in 1..=255u8 {
            assert_eq!(multiply(a, invert(a)), 1);
            let mut product = 1;
            for n in 0..600 {
                assert_eq!(power(a, n), product);
                product = multiply(product, a);
            }
        }
        assert_eq!((power(0, 0), power(0, 1)), (1, 0));
    }
}
