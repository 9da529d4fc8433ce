//! A plot of cost against ledger size, as an SVG: both axes logarithmic.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::reads::CALLS;

const COLOURS: [&str; CALLS.len()] = [
    "#1b6ca8", "#c0392b", "#1e8449", "#7d3c98", "#b9770e", "#2c3e50",
];
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 100.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// The powers of ten between which costs lie, in microseconds.
const COSTS: (i32, i32) = (1, 5);

/// The median of each call at each size.
pub(super) fn svg(figures: &Map<String, Value>, sizes: &[u64]) -> String {
    let exponent = |size: &u64| (*size as f64).log10();
    let first = sizes.iter().map(exponent).fold(f64::MAX, f64::min);
    let last = sizes.iter().map(exponent).fold(first + 0.1, f64::max);
    let x = |size: &u64| LEFT + (exponent(size) - first) / (last - first) * (WIDTH - LEFT - RIGHT);
    let span = f64::from(COSTS.1 - COSTS.0);
    let y = |us: f64| {
        let above = (us.max(1.0).log10() - f64::from(COSTS.0)) / span;
        HEIGHT - BOTTOM - above.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"20\">median of one call, in microseconds, against \
         entries in the ledger</text>\n"
    );
    let right = WIDTH - RIGHT;
    for power in COSTS.0..=COSTS.1 {
        let us = 10_f64.powi(power);
        let at = y(us);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{us}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    for size in sizes {
        let (at, below) = (x(size), HEIGHT - BOTTOM + 20.0);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{size}</text>"
        );
    }
    for (call, colour) in CALLS.into_iter().zip(COLOURS) {
        let cost = |size: &u64| figures.get(&format!("at_{size}.{call}_p50_us"))?.as_f64();
        let points: Vec<_> = sizes
            .iter()
            .filter_map(|size| Some((x(size), y(cost(size)?))))
            .collect();
        let Some((_, end)) = points.last() else {
            continue;
        };
        let line = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{call}</text>",
            line.collect::<Vec<_>>().join(" "),
            right + 8.0,
            end + 4.0
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_that_was_measured_has_a_line() {
        let mut figures = Map::new();
        for (size, cost) in [(10_000, 120.0), (100_000, 130.0)] {
            for call in ["get", "submit"] {
                figures.insert(format!("at_{size}.{call}_p50_us"), cost.into());
            }
        }
        let drawn = svg(&figures, &[10_000, 100_000]);
        assert_eq!(drawn.matches("<polyline").count(), 2);
        assert!(drawn.contains(">submit<") && !drawn.contains(">custody<"));
        assert!(drawn.ends_with("</svg>\n") && !drawn.contains("NaN"));
        assert!(!svg(&Map::new(), &[]).contains("NaN"));
    }
}
