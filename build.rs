//! Lists the data files that are built in, so that a file added to its folder needs no line of code.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    list("locales")
}

/// Writes `FOLDER.rs`: a slice of the names (without `.toml`) and contents of the files in `config/FOLDER`, by name.
fn list(folder: &str) -> io::Result<()> {
    let variable = |name| env::var_os(name).ok_or_else(|| io::Error::other(format!("cargo did not set {name}")));
    let (root, out) = (variable("CARGO_MANIFEST_DIR")?, variable("OUT_DIR")?);
    let path = Path::new(&root).join("config").join(folder);
    println!("cargo::rerun-if-changed={}", path.display());
    let mut files = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let lines = files.iter().map(|file| {
        let name = file.file_stem().unwrap_or_default();
        format!("    ({:?}, include_str!({:?})),\n", name.display().to_string(), file.display().to_string())
    });
    fs::write(Path::new(&out).join(format!("{folder}.rs")), format!("&[\n{}]\n", lines.collect::<String>()))
}
