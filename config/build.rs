//! Writes a list of the files in `config/presets` and a list of the files in `config/locales`. The sources include both
//! lists, so a new preset or locale needs no entry in another file.
//!
//! Each list is a Rust expression in a file in `OUT_DIR`: a slice of pairs of name and content. Presets are sorted by
//! their key `order`, then by name. Locales are sorted by name.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    list("presets")?;
    list("locales")
}

fn list(folder: &str) -> Result<(), Box<dyn Error>> {
    // For a folder, Cargo checks the modification times of all files in it.
    println!("cargo::rerun-if-changed=config/{folder}");
    let mut files = Vec::new();
    for entry in fs::read_dir(Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("config").join(folder))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.starts_with('.') || path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let order = match text.lines().find_map(|line| line.strip_prefix("order = ")) {
            Some(order) => order.trim().parse().map_err(|error| {
                format!("{}: order = {order}: {error}; write a whole number such as 10", path.display())
            })?,
            None => u32::MAX,
        };
        files.push((order, name, path));
    }
    files.sort();
    let mut list = String::from("&[");
    for (_, name, path) in files {
        write!(list, "({name:?}, include_str!({:?})),", path.display().to_string())?;
    }
    list.push(']');
    fs::write(Path::new(&env::var("OUT_DIR")?).join(format!("{folder}.rs")), list)?;
    Ok(())
}
