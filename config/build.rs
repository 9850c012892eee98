//! Lists the files of `config/presets` and `config/locales` for the sources, so that a new file needs no entry anywhere
//! else.
//!
//! A list is an expression in `OUT_DIR`: a slice of names and contents. Presets are sorted by their key `order`, then by
//! name; locales by name.

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
    // Cargo looks at the times of all files below a folder.
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
            Some(order) => order.trim().parse().map_err(|error| format!("{}: order: {error}", path.display()))?,
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
