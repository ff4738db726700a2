// SPDX-License-Identifier: Apache-2.0
//! Words of a command line: options with their values, numbers, sizes.

use std::ffi::OsString;
use std::ops::RangeInclusive;

/// The words that are left; `--name=value` comes as two of them.
pub struct Arguments<'a> {
    words: std::slice::Iter<'a, OsString>,
    value: Option<OsString>,
}

impl<'a> Arguments<'a> {
    /// All words behind the command's name.
    pub fn new(words: &'a [OsString]) -> Self {
        Self {
            words: words.iter(),
            value: None,
        }
    }

    /// The next word.
    pub fn next(&mut self) -> Option<OsString> {
        if let Some(value) = self.value.take() {
            return Some(value);
        }
        let word = self.words.next()?;
        if let Some((name, value)) = word
            .to_str()
            .filter(|text| text.starts_with("--"))
            .and_then(|text| text.split_once('='))
        {
            self.value = Some(value.into());
            return Some(name.into());
        }
        Some(word.clone())
    }

    /// The number behind an option.
    pub fn number(&mut self, option: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
        self.read(option, range, |text| text.parse().ok())
    }

    /// The size behind an option, such as `64K`, in bytes.
    pub fn size(&mut self, option: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
        self.read(option, range, size)
    }

    fn read(
        &mut self,
        option: &str,
        range: RangeInclusive<u64>,
        parse: fn(&str) -> Option<u64>,
    ) -> Result<u64, String> {
        let word = self.next();
        let text = word.as_ref().and_then(|word| word.to_str());
        text.and_then(parse)
            .filter(|value| range.contains(value))
            .ok_or_else(|| {
                let (least, most) = (range.start(), range.end());
                format!("{option} takes a number from {least} to {most}")
            })
    }
}

/// Bytes: a number, and K, M or G behind it for their 1024s.
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_behind_or_in_their_option() {
        let words: Vec<OsString> = ["--size=4K", "tcp:a=b:1", "--count", "7", "--", "-x"]
            .map(OsString::from)
            .to_vec();
        let mut arguments = Arguments::new(&words);
        assert_eq!(arguments.next().unwrap(), "--size");
        assert_eq!(arguments.size("--size", 1..=8192), Ok(4096));
        assert_eq!(arguments.next().unwrap(), "tcp:a=b:1");
        assert_eq!(arguments.next().unwrap(), "--count");
        assert_eq!(arguments.number("--count", 7..=7), Ok(7));
        assert_eq!(arguments.next().unwrap(), "--");
        let error = arguments.number("--n", 1..=9).unwrap_err();
        assert_eq!(error, "--n takes a number from 1 to 9");
        assert!(arguments.size("--n", 0..=9).is_err(), "nothing is left");
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("0", 0), ("1k", 1024), ("3M", 3 << 20), ("2G", 2 << 30)] {
            assert_eq!(size(text), Some(bytes));
        }
        for text in [
            "",
            "K",
            "1T",
            "-1",
            "1.5M",
            "99999999999999999999",
            "18446744073709551615K",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
