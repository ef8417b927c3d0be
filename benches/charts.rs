//! Draws the charts of `docs/benchmarks.md` from the JSON that `cargo bench --bench peers -- --json FILE` writes.
//!
//! Every figure is drawn as its ratio to two atomic adds. What is far off the others is named in the caption instead.

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
    let hits = || rows.iter().filter(|row| row.case == "hit");
    let of_one_thread = hits().filter(|row| row.threads == 1).map(|row| (row, row.interpreters)).collect();
    lines(
        &folder.join("interpreters.svg"),
        "Find an interpreter and keep it, one thread",
        "live interpreters",
        &[1, 10, 1000, 65_536],
        of_one_thread,
    )?;
    let mut threads: Vec<usize> = hits().map(|row| row.threads).collect();
    threads.sort_unstable();
    threads.dedup();
    let among_1000 = hits().filter(|row| row.interpreters == 1000).map(|row| (row, row.threads)).collect();
    lines(
        &folder.join("threads.svg"),
        "Find one interpreter among 1,000 and keep it, several threads",
        "threads that do so at once",
        &threads,
        among_1000,
    )?;
    handler(&folder.join("handler.svg"), &rows)
}

const WIDTH: i32 = 860;
const HEIGHT: i32 = 500;
/// Where the names of the lines begin.
const NAMES: i32 = WIDTH - 250;
const SMALL: (&str, i32) = ("sans-serif", 14);
/// Kinds of candidates that are far off all others, and named in the caption.
const FAR_OFF: &str = "list";

/// One line for each candidate, over places that stand evenly apart.
fn lines(
    path: &Path,
    title: &str,
    across: &str,
    places: &[usize],
    points: Vec<(&Row, usize)>,
) -> Result<(), Box<dyn Error>> {
    let names = |far_off: bool| {
        let mut names: Vec<&str> = Vec::new();
        for (row, _) in points.iter().filter(|(row, _)| (row.kind == FAR_OFF) == far_off) {
            if !names.contains(&row.name.as_str()) {
                names.push(&row.name);
            }
        }
        names
    };
    let series = |name: &str| -> Vec<(f64, f64)> {
        let at = |place| points.iter().find(|(row, at)| row.name == name && *at == place);
        let ratios = places.iter().enumerate();
        ratios.filter_map(|(x, &place)| at(place).map(|(row, _)| (x as f64, row.floor_ratio))).collect()
    };
    let drawn: Vec<(&str, Vec<(f64, f64)>)> =
        names(false).into_iter().map(|name| (name, series(name))).collect();
    let high = drawn.iter().flat_map(|(_, series)| series).map(|&(_, ratio)| ratio).fold(0.0, f64::max);
    if high == 0.0 {
        return Err(format!("{}: no figures for it", path.display()).into());
    }
    let area = SVGBackend::new(path, (WIDTH as u32, HEIGHT as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    area.draw(&Text::new(title, (20, 12), ("sans-serif", 20)))?;
    area.draw(&Text::new("times the cost of two atomic adds; lower is better", (20, 38), SMALL))?;
    for (line, name) in names(true).into_iter().enumerate() {
        let ratios: Vec<String> = series(name).iter().map(|&(_, ratio)| grouped(ratio)).collect();
        let caption = format!("not drawn, far above: {name} ({})", ratios.join(", "));
        area.draw(&Text::new(caption, (20, 56 + 18 * line as i32), SMALL))?;
    }
    let (left, _) = area.split_horizontally(NAMES - 40);
    let mut chart = ChartBuilder::on(&left)
        .margin(12)
        .margin_top(84)
        .x_label_area_size(42)
        .y_label_area_size(44)
        .build_cartesian_2d(0_f64..(places.len() - 1) as f64, 0.0..high * 1.05)?;
    let place = |x: &f64| {
        let near = x.round();
        let label = places.get(near as usize).filter(|_| (x - near).abs() < 0.01);
        label.map_or(String::new(), |&label| grouped(label as f64))
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(places.len())
        .x_label_formatter(&place)
        .x_label_style(SMALL)
        .y_label_style(SMALL)
        .x_desc(across)
        .light_line_style(WHITE)
        .draw()?;
    let mut ends: Vec<(i32, &str, RGBColor, (i32, i32))> = Vec::new();
    for (at, (name, series)) in drawn.iter().enumerate() {
        let (color, width) = style(name, at);
        let last = *series.last().expect("a name comes from a point");
        let end = chart.backend_coord(&last);
        ends.push((end.1, name, color, end));
        let line = LineSeries::new(series.iter().copied(), color.stroke_width(width).filled());
        chart.draw_series(line.point_size(width + 1))?;
    }
    // Each name beside the end of its line, as near as the others let it.
    ends.sort_by_key(|&(y, ..)| y);
    spread(&mut ends, 17, HEIGHT - 20);
    for (y, name, color, end) in ends {
        area.draw(&PathElement::new([(end.0 + 4, end.1), (NAMES - 6, y)], color.mix(0.5)))?;
        let text =
            ("sans-serif", if name.starts_with("interp-guard") { 16 } else { 14 }).into_font().color(&color);
        area.draw(&Text::new(name.to_string(), (NAMES, y - 8), text))?;
    }
    area.present()?;
    Ok(())
}

/// Moves the places, which are in order, apart by `distance` at least, and none below `bottom`.
fn spread<T, U, V>(places: &mut [(i32, T, U, V)], distance: i32, bottom: i32) {
    let mut above = i32::MIN / 2;
    for place in places.iter_mut() {
        place.0 = place.0.max(above + distance);
        above = place.0;
    }
    let mut below = bottom + distance;
    for place in places.iter_mut().rev() {
        place.0 = place.0.min(below - distance);
        below = place.0;
    }
}

/// A number for people: `17,971`, `259`, `2.5`.
fn grouped(number: f64) -> String {
    if number < 10.0 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
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
        "two restartable sequences" => (RGBColor(110, 110, 110), 2),
        _ => (OTHERS[at % OTHERS.len()], 1),
    }
}

/// Round trips of a signal, as groups of bars: an empty handler, and ours.
fn handler(path: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let groups = [("in-handler", "p50"), ("in-handler-p99", "p99")];
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
    let area = SVGBackend::new(path, (WIDTH as u32, HEIGHT as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = "Round trip of a SIGUSR1, with a lookup and its drop in the handler";
    area.draw(&Text::new(title, (20, 12), ("sans-serif", 20)))?;
    area.draw(&Text::new("microseconds; lower is better", (20, 38), SMALL))?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .margin_top(70)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0_f64..groups.len() as f64, 0_f64..high * 1.15)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_label_style(SMALL)
        .light_line_style(WHITE)
        .draw()?;
    for (group, (case, label)) in groups.iter().enumerate() {
        for (bar, name) in names.iter().enumerate() {
            let Some(us) = value(case, name) else { continue };
            let from = group as f64 + 0.14 + 0.24 * bar as f64;
            chart.draw_series([Rectangle::new([(from, 0.0), (from + 0.2, us)], colors[bar].filled())])?;
            let text = format!("{us:.2}");
            chart.draw_series([Text::new(text, (from + 0.04, us + high * 0.04), SMALL)])?;
        }
        let (x, y) = chart.backend_coord(&(group as f64 + 0.45, 0.0));
        area.draw(&Text::new((*label).to_string(), (x, y + 8), SMALL))?;
    }
    for (at, name) in names.iter().enumerate() {
        let y = 78 + 20 * at as i32;
        area.draw(&Rectangle::new([(100, y), (118, y + 8)], colors[at].filled()))?;
        area.draw(&Text::new((*name).to_string(), (126, y - 3), SMALL))?;
    }
    area.present()?;
    Ok(())
}
