//! Byte counts and numbers, as people write and read them.

#![forbid(unsafe_code)]

/// Reads `2097152`, `2M` or `2MiB` (K, M, G, T; any case).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err("write a whole number of bytes, as 2097152, 2M or 2MiB".into()),
    };
    if number.is_empty() {
        return Err("write a whole number of bytes, as 2097152, 2M or 2MiB".into());
    }
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| "more than 64 bits hold".into())
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.char_indices() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `bytes` in units of `unit` bytes with so many decimals, grouped.
pub fn scaled(bytes: u64, unit: u64, decimals: u32) -> String {
    let scale = 10u128.pow(decimals);
    let tenths = (u128::from(bytes) * scale + u128::from(unit) / 2) / u128::from(unit);
    let whole = grouped((tenths / scale) as u64);
    if decimals == 0 {
        whole
    } else {
        format!("{whole}.{:0width$}", tenths % scale, width = decimals as usize)
    }
}

/// Bytes with a unit that leaves at most five digits before the point: `5,495.2 MiB`.
pub fn human(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", scaled(bytes, 1 << 10, 1)),
        0x10_0000..0x19_0000_0000 => format!("{} MiB", scaled(bytes, 1 << 20, 1)),
        _ => format!("{} GiB", scaled(bytes, 1 << 30, 1)),
    }
}

/// Exactly so many bytes, in the largest unit that needs no decimals: `2 MiB`.
pub fn round(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift)) {
        Some((shift, unit)) => format!("{} {unit}", grouped(bytes >> shift)),
        None => format!("{} B", grouped(bytes)),
    }
}

/// A fraction in percent: `97.8 %`.
pub fn percent(fraction: f64) -> String {
    format!("{:.1} %", fraction * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_in_every_spelling() {
        for text in ["2097152", "2097152B", "2048k", "2M", "2m", "2MiB", "2mib"] {
            assert_eq!(parse_bytes(text), Ok(2 << 20), "{text}");
        }
        assert_eq!(parse_bytes("3T"), Ok(3 << 40));
        assert_eq!(parse_bytes("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn what_is_no_byte_count_is_refused() {
        for text in
            ["", "M", "-1", "+1", "2MB", "2 M", "1.5M", "0x10", "nan", "18446744073709551616", "16777216T"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_grouped_and_rounded_to_nearest() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(scaled((1 << 20) * 2 - 1, 1 << 20, 1), "2.0");
        assert_eq!(scaled(u64::MAX, 1 << 30, 0), "17,179,869,184");
        assert_eq!(scaled(1536, 1024, 1), "1.5");
    }

    #[test]
    fn a_human_reads_a_few_digits_and_a_unit() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(5_762_132_992), "5,495.2 MiB");
        assert_eq!(human(100 << 30), "100.0 GiB");
        assert_eq!(human((100 << 30) - (1 << 20)), "102,399.0 MiB");
        assert_eq!(round(2 << 20), "2 MiB");
        assert_eq!(round(21_588 << 20), "21,588 MiB");
        assert_eq!(round((2 << 20) + 1), "2,097,153 B");
        assert_eq!(percent(0.97849), "97.8 %");
    }
}
