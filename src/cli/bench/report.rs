//! What is printed: a table as it goes, or one JSON object at the end.

use std::fs;

use super::load::Singles;

/// The figures.
pub(super) struct Report {
    json: bool,
    figures: serde_json::Map<String, serde_json::Value>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            figures: serde_json::Map::new(),
        }
    }

    pub(super) fn title(&self, text: &str) {
        if !self.json {
            println!("\n{text}");
        }
    }

    /// One figure.
    pub(super) fn plain(&mut self, name: &str, value: f64, meaning: &str) {
        if !self.json {
            println!("  {name:<24} {value:>10.2}  {meaning}");
        }
        self.keep(name, value);
    }

    /// A rate beside that of bare tonic.
    pub(super) fn rate(&mut self, name: &str, hefu: f64, bare: f64, unit: &str) {
        let ratio = hefu / bare;
        if !self.json {
            println!("  {name:<24} {hefu:>10.0}  {unit}, bare {bare:.0}, ratio {ratio:.3}");
        }
        self.keep(&format!("{name}.per_second"), hefu);
        self.keep(&format!("{name}.bare_per_second"), bare);
        self.keep(&format!("{name}.ratio"), ratio);
    }

    /// A closed loop beside that of bare tonic.
    pub(super) fn singles(&mut self, in_flight: usize, hefu: &Singles, bare: &Singles) {
        let name = format!("submit_{in_flight}");
        self.rate(&name, hefu.per_second(), bare.per_second(), "submits/s");
        let percentiles = [
            ("p50_us", hefu.percentile(50)),
            ("p99_us", hefu.percentile(99)),
            ("bare_p50_us", bare.percentile(50)),
            ("bare_p99_us", bare.percentile(99)),
        ];
        if !self.json {
            let [(_, p50), (_, p99), (_, bare50), (_, bare99)] = percentiles;
            println!(
                "  {:<24} {p50:>10.0}  us p50, p99 {p99:.0}; bare p50 {bare50:.0}, p99 {bare99:.0}",
                ""
            );
        }
        for (figure, value) in percentiles {
            self.keep(&format!("{name}.{figure}"), value);
        }
    }

    /// Prints the object, where that is asked for.
    pub(super) fn end(&self) {
        if self.json {
            println!("{}", serde_json::Value::Object(self.figures.clone()));
        }
    }

    /// The figures, by name.
    pub(super) fn figures(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.figures
    }

    fn keep(&mut self, name: &str, value: f64) {
        let rounded = (value * 1e4).round() / 1e4;
        self.figures.insert(name.to_owned(), rounded.into());
    }
}

/// A line of a process's `/proc/PID/status`, in MiB; 0 where there is none.
pub(super) fn memory(process: &str, line: &str) -> f64 {
    proc(&format!("/proc/{process}/status"), line) / 1024.0
}

/// Bytes that this process has caused to be written to disk.
pub(super) fn written() -> f64 {
    proc("/proc/self/io", "write_bytes")
}

fn proc(file: &str, line: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let found = text
        .lines()
        .find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    let number = found.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0.0)
}
