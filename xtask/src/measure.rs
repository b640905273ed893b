//! `cargo xtask measure`: the server beside a raw relay, on the same cores, minutes apart.
//!
//! For each load the highest rate that is kept up with is searched for (delivery complete, 99th
//! percentile below 50 ms, goodput 99.9 %, the generator in time), first against the relay, then
//! against the server, and run for ten seconds. One core serves, the other generates.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const SERVER_CPU: &str = "0";
const GENERATOR_CPU: &str = "1";
const RELAY_ADDRESS: &str = "127.0.0.1:7711";

/// One load: its name, the scenario and its flags, where the search begins.
struct Load {
    name: &'static str,
    scenario: &'static str,
    flags: &'static [&'static str],
    rate: &'static str,
    deliveries: f64,
}

const LOADS: &[Load] = &[
    Load {
        name: "direct, 1,000 connections",
        scenario: "direct",
        flags: &["--connections", "1000"],
        rate: "50000",
        deliveries: 1.0,
    },
    Load {
        name: "direct, 64 busy connections",
        scenario: "direct",
        flags: &["--connections", "64", "--turn-us", "500"],
        rate: "150000",
        deliveries: 1.0,
    },
    Load {
        name: "group of 256",
        scenario: "group",
        flags: &["--members", "256"],
        rate: "3000",
        deliveries: 255.0,
    },
    Load {
        name: "group of 1,000",
        scenario: "group",
        flags: &["--members", "1000"],
        rate: "800",
        deliveries: 999.0,
    },
];

/// A process that is ended when it goes out of scope.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prints a table row for each load whose name contains `only`.
pub(crate) fn run(root: &Path, target: &Path, only: &str) -> Result<(), String> {
    let build = ["build", "--release", "-p", "ringmain", "-p", "bench", "-p", "perf"];
    let built = Command::new("cargo").args(build).current_dir(root).status();
    if !built.map_err(|error| format!("cargo: {error}"))?.success() {
        return Err("the build failed".to_owned());
    }
    let programs = target.join("release");
    println!(
        "| load | relay, deliveries/s | durable, deliveries/s | of the relay | p99 ms \
         | us a message | lost, doubled, reordered |"
    );
    println!("|---|---|---|---|---|---|---|");
    for load in LOADS.iter().filter(|load| load.name.contains(only)) {
        println!("{}", row(&programs, load)?);
    }
    Ok(())
}

fn row(programs: &Path, load: &Load) -> Result<String, String> {
    let relay = relayed(programs, load)?;
    let report = served(programs, load)?;
    let rate = |report: &Value| number(report, "/rates/acked") * load.deliveries;
    let verdict = ["lost", "duplicated", "reordered"]
        .map(|name| format!("{:.0}", number(&report, &format!("/verdict/{name}"))));
    let p99 = number(&report, "/delivered/total/p99") / 1e6;
    let (relay, durable) = (rate(&relay), rate(&report));
    let micros = number(&report, "/cpu/server_micros_per_message");
    let void = report.pointer("/void").and_then(Value::as_str).unwrap_or("");
    Ok(format!(
        "| {} | {relay:.0} | {durable:.0} | {:.2} | {p99:.1} | {micros:.2} | {} {void} |",
        load.name,
        durable / relay,
        verdict.join(", ")
    ))
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn relayed(programs: &Path, load: &Load) -> Result<Value, String> {
    let members = load.flags.iter().skip_while(|it| **it != "--members").nth(1).unwrap_or(&"256");
    let relay = Command::new(programs.join("ringmain-perf"))
        .args(["--pin", SERVER_CPU, "relay", "--listen", RELAY_ADDRESS])
        .args(["--group-members", members])
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("ringmain-perf: {error}"))?;
    let _relay = Running(relay);
    let scenario = format!("relay-{}", load.scenario);
    generate(programs, &scenario, load, &["--target", RELAY_ADDRESS])
}

fn served(programs: &Path, load: &Load) -> Result<Value, String> {
    let data = Folder(std::env::temp_dir().join(format!("ringmain-{}", std::process::id())));
    let server = Command::new("taskset")
        .args(["-c", SERVER_CPU])
        .arg(programs.join("ringmain"))
        .args(["serve", "--dev-auth", "--native", "127.0.0.1:0", "--log-level", "error"])
        .arg("--data")
        .arg(&data.0)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("taskset: {error}"))?;
    let mut server = Running(server);
    let mut ready = String::new();
    let out = server.0.stdout.take().expect("piped above");
    BufReader::new(out).read_line(&mut ready).map_err(|error| format!("the server: {error}"))?;
    let native = ready.split_whitespace().find_map(|word| word.strip_prefix("native="));
    let native = native.ok_or("the server did not get ready; what it said is above")?;
    let pid = server.0.id().to_string();
    generate(programs, load.scenario, load, &["--target", native, "--server-pid", &pid])
}

/// A folder that is removed when it goes out of scope.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // A server that did not start has made none.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn generate(programs: &Path, scenario: &str, load: &Load, flags: &[&str]) -> Result<Value, String> {
    let output = Command::new(programs.join("ringmain-bench"))
        .arg(scenario)
        .args(load.flags)
        .args(["--rate", load.rate, "--find-rate", "--trial", "2", "--duration", "10"])
        .args(["--pin", GENERATOR_CPU, "--json"])
        .args(flags)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("ringmain-bench: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|error| format!("{scenario}: no report ({error})"))
}
