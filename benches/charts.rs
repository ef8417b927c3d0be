//! Draws the charts of `docs/benchmarks.md` from the JSON that `cargo bench --bench peers -- --json FILE` writes.
//!
//! Every figure is drawn as its ratio to the floor, two bare locked adds, on a logarithmic scale.

#[path = "peers/row.rs"]
mod row;

use plotters::prelude::*;
use row::Row;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
Draws the charts of docs/benchmarks.md as SVG.

Usage: cargo bench --bench charts [-- JSON [FOLDER]]

  JSON     what `cargo bench --bench peers -- --json JSON` wrote [docs/benchmarks/peers.json]
  FOLDER   where the charts go                                   [docs/benchmarks]
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let argument =
        |at: usize, default: &str| arguments.get(at).map_or_else(|| root.join(default), PathBuf::from);
    match draw(&argument(0, "docs/benchmarks/peers.json"), &argument(1, "docs/benchmarks")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn draw(json: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let text = std::fs::read_to_string(json).map_err(|error| format!("{}: {error}", json.display()))?;
    let rows: Vec<Row> = serde_json::from_str(&text)?;
    std::fs::create_dir_all(folder)?;
    lines(
        &folder.join("interpreters.svg"),
        "Lookup and drop of a warm ID, one thread",
        "interpreters",
        &[1, 10, 1000, 65_536],
        rows.iter()
            .filter(|row| row.case == "hit" && row.threads == 1)
            .map(|row| (row, row.interpreters))
            .collect(),
    )?;
    let mut threads: Vec<usize> =
        rows.iter().filter(|row| row.case == "hit").map(|row| row.threads).collect();
    threads.sort_unstable();
    threads.dedup();
    lines(
        &folder.join("threads.svg"),
        "Lookup and drop of one ID among 1,000",
        "threads on the same interpreter",
        &threads,
        rows.iter()
            .filter(|row| row.case == "hit" && row.interpreters == 1000)
            .map(|row| (row, row.threads))
            .collect(),
    )?;
    handler(&folder.join("handler.svg"), &rows)
}

const WIDTH: u32 = 860;
const HEIGHT: u32 = 480;

/// One line for each candidate, over places that stand evenly apart.
fn lines(
    path: &Path,
    title: &str,
    across: &str,
    places: &[usize],
    points: Vec<(&Row, usize)>,
) -> Result<(), Box<dyn Error>> {
    let mut names: Vec<&str> = Vec::new();
    for (row, _) in &points {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    let ratios = || points.iter().map(|(row, _)| row.floor_ratio);
    let low = ratios().fold(f64::INFINITY, f64::min) / 1.5;
    let high = ratios().fold(0.0, f64::max) * 1.5;
    if !(low.is_finite() && low > 0.0) {
        return Err(format!("{}: no figures for it", path.display()).into());
    }
    let area = SVGBackend::new(path, (WIDTH, HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(WIDTH - 250);
    let mut chart = ChartBuilder::on(&left)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0_f64..(places.len() - 1) as f64, (low..high).log_scale())?;
    let place = |x: &f64| {
        let near = x.round();
        let label = places.get(near as usize).filter(|_| (x - near).abs() < 0.01);
        label.map_or(String::new(), |label| label.to_string())
    };
    chart
        .configure_mesh()
        .x_labels(places.len())
        .x_label_formatter(&place)
        .x_desc(across)
        .y_desc("times two bare locked adds")
        .light_line_style(WHITE)
        .draw()?;
    for (at, name) in names.iter().enumerate() {
        let (color, width) = style(name, at);
        let series: Vec<(f64, f64)> = places
            .iter()
            .enumerate()
            .filter_map(|(x, place)| {
                points
                    .iter()
                    .find(|(row, at)| row.name == *name && at == place)
                    .map(|(row, _)| (x as f64, row.floor_ratio))
            })
            .collect();
        chart
            .draw_series(LineSeries::new(series, color.stroke_width(width).filled()).point_size(width + 1))?;
        let y = 44 + 22 * at as i32;
        right.draw(&Rectangle::new([(4, y), (24, y + 4)], color.filled()))?;
        right.draw(&Text::new(name.to_string(), (32, y - 5), ("sans-serif", 14)))?;
    }
    area.present()?;
    Ok(())
}

/// Ours in the strong colours, the floor black, the others lighter.
fn style(name: &str, at: usize) -> (RGBColor, u32) {
    const OTHERS: [RGBColor; 10] = [
        RGBColor(230, 159, 0),
        RGBColor(86, 180, 233),
        RGBColor(0, 158, 115),
        RGBColor(204, 121, 167),
        RGBColor(148, 103, 189),
        RGBColor(140, 86, 75),
        RGBColor(188, 189, 34),
        RGBColor(23, 190, 207),
        RGBColor(127, 127, 127),
        RGBColor(240, 128, 128),
    ];
    match name {
        "interp-guard/per-cpu" => (RGBColor(200, 0, 0), 3),
        "interp-guard/shared" => (RGBColor(0, 60, 180), 3),
        "two locked adds" => (BLACK, 2),
        _ => (OTHERS[at % OTHERS.len()], 1),
    }
}

/// Round trips of a signal, as groups of bars: an empty handler, and ours.
fn handler(path: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let groups = [("in-handler", "p50"), ("in-handler-p99", "p99"), ("in-handler-p99.99", "p99.99")];
    let names = ["empty handler", "interp-guard/per-cpu", "interp-guard/shared"];
    let colors = [RGBColor(120, 120, 120), RGBColor(200, 0, 0), RGBColor(0, 60, 180)];
    let value = |case: &str, name: &str| {
        rows.iter().find(|row| row.case == case && row.name == name).map(|row| row.ns / 1000.0)
    };
    let high = groups
        .iter()
        .flat_map(|(case, _)| names.map(|name| value(case, name).unwrap_or(0.0)))
        .fold(0.0, f64::max);
    if high == 0.0 {
        return Err(format!("{}: no figures for it", path.display()).into());
    }
    let area = SVGBackend::new(path, (WIDTH, HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Round trip of a SIGUSR1, with a lookup and drop in the handler", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0_f64..groups.len() as f64, 0_f64..high * 1.15)?;
    chart.configure_mesh().disable_x_mesh().x_labels(0).y_desc("microseconds").draw()?;
    for (group, (case, label)) in groups.iter().enumerate() {
        for (bar, name) in names.iter().enumerate() {
            let Some(us) = value(case, name) else { continue };
            let from = group as f64 + 0.14 + 0.24 * bar as f64;
            chart.draw_series([Rectangle::new([(from, 0.0), (from + 0.2, us)], colors[bar].filled())])?;
            let text = format!("{us:.2}");
            chart.draw_series([Text::new(text, (from + 0.04, us + high * 0.04), ("sans-serif", 14))])?;
        }
        let (x, y) = chart.backend_coord(&(group as f64 + 0.45, 0.0));
        area.draw(&Text::new((*label).to_string(), (x, y + 8), ("sans-serif", 14)))?;
    }
    for (at, name) in names.iter().enumerate() {
        let y = 48 + 20 * at as i32;
        area.draw(&Rectangle::new([(100, y), (118, y + 8)], colors[at].filled()))?;
        area.draw(&Text::new((*name).to_string(), (126, y - 3), ("sans-serif", 14)))?;
    }
    area.present()?;
    Ok(())
}
