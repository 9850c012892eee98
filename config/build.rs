//! Writes a list of the files in `config/presets` and a list of the files in `config/locales`. The sources include both
//! lists, so a new preset or locale needs no entry in another file.
//!
//! Each list is a Rust expression in a file in `OUT_DIR`: a slice of pairs of name and content. Presets are sorted by
//! their key `order`, then by name. Locales are sorted by name.
//!
//! Also sets `EDGESHIM_COMMIT`, the commit that `--version` and `edgeshim_build_info` show, and an option of the linker.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    list("presets")?;
    list("locales")?;
    println!("cargo::rustc-env=EDGESHIM_COMMIT={}", commit()?);
    if env::var("PROFILE")? == "release" && env::var("HOST")? == env::var("TARGET")? && reads_packed_relocations() {
        // The release binary becomes 0.5 MiB smaller.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    Ok(())
}

/// Returns whether the C library of this machine can load a program with packed relocations: glibc can since 2.36.
fn reads_packed_relocations() -> bool {
    let Ok(output) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return false };
    let version = String::from_utf8_lossy(&output.stdout);
    let minor = version.trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 36)
}

/// Returns the commit of the sources: the environment variable `EDGESHIM_COMMIT`, or the commit in the file that
/// `cargo package` writes, or, in a release build, the commit of the git checkout. If there is none of them, returns
/// `unknown`. A debug build does not read the git checkout, because each commit would then compile it again.
fn commit() -> Result<String, Box<dyn Error>> {
    const PACKAGED: &str = ".cargo_vcs_info.json";
    println!("cargo::rerun-if-env-changed=EDGESHIM_COMMIT");
    if let Some(commit) = env::var("EDGESHIM_COMMIT").ok().filter(|commit| !commit.is_empty()) {
        return Ok(commit);
    }
    let root = env::var("CARGO_MANIFEST_DIR")?;
    let root = Path::new(&root);
    if let Ok(packaged) = fs::read_to_string(root.join(PACKAGED)) {
        println!("cargo::rerun-if-changed={PACKAGED}");
        let commit = packaged.split('"').find(|text| text.len() >= 40 && text.bytes().all(|c| c.is_ascii_hexdigit()));
        return Ok(short(commit));
    }
    // The sources can be a folder in another project's repository. Then `.git` is not in this folder.
    if env::var("PROFILE")? != "release" || !root.join(".git").exists() {
        return Ok(short(None));
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(root).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    // git appends a line to this log for each commit and each checkout. For a missing file, Cargo would run this script
    // in each build.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| root.join(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    Ok(short(git(&["rev-parse", "HEAD"]).as_deref()))
}

fn short(commit: Option<&str>) -> String {
    commit.and_then(|commit| commit.get(..12)).unwrap_or("unknown").to_owned()
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
