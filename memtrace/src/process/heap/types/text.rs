//! Long text, by the first bytes of a block. No more of it is kept than that it is text.

/// Bytes at the beginning of a block that must be text.
pub(super) const TEXT_WORDS: usize = 4;

/// Whether a block begins with text: printable characters in UTF-8, of which the last may be cut.
pub(super) fn is_text(beginning: &[[u8; 8]; TEXT_WORDS]) -> bool {
    // Most blocks have a byte among their first ones that no text has, so this is what takes no time.
    if beginning.iter().any(|word| has_less_than(u64::from_ne_bytes(*word), b'\t')) {
        return false;
    }
    let bytes = beginning.as_flattened();
    let is_plain = |byte: u8| byte >= 0x20 && byte != 0x7f || matches!(byte, b'\t' | b'\n' | b'\r');
    if !bytes.iter().all(|byte| is_plain(*byte)) {
        return false;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            bytes.get(..error.valid_up_to()).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
        }
        Err(_) => return false,
    };
    // One of the controls that are above ASCII, or what nobody has assigned a meaning to.
    !text.chars().any(|character| character.is_control() && !character.is_ascii()) && text.contains(char::is_alphabetic)
}

/// Whether one of a word's bytes is less than `least`, which is at most 128.
fn has_less_than(word: u64, least: u8) -> bool {
    const ONES: u64 = u64::MAX / 255;
    word.wrapping_sub(ONES * u64::from(least)) & !word & (ONES << 7) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &[u8]) -> bool {
        let mut words = [[0; 8]; TEXT_WORDS];
        for (place, byte) in words.as_flattened_mut().iter_mut().zip(text) {
            *place = *byte;
        }
        is_text(&words)
    }

    #[test]
    fn a_small_byte_is_noticed_at_any_place() {
        for place in 0..8 {
            let with = |byte: u8| u64::from_le_bytes(std::array::from_fn(|at| if at == place { byte } else { 0xff }));
            assert_eq!(
                [0, 8, 9, 127, 128, 255].map(|byte| has_less_than(with(byte), 9)),
                [true, true, false, false, false, false]
            );
        }
    }

    #[test]
    fn text_is_text_in_any_script() {
        assert!(told(b"GET /index.html HTTP/1.1\r\nHost: example"));
        assert!(told("Grüße aus dem Süden, wo es schön warm ist".as_bytes()));
        assert!(told("内存里的一段很长的文字,不止三十二个字节".as_bytes()));
    }

    #[test]
    fn short_text_numbers_and_bytes_are_none() {
        assert!(!told(b"short\0") && !told(&[0; 32]) && !told(&[0xff; 32]) && !told(&[7; 32]));
        assert!(!told(b"a text of some length \x1b[2J and more of it"));
        assert!(!told(b"--------------------------------"), "a ruler, or padding");
    }
}
