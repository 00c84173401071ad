//! What `cargo xtask` asks of the harness besides running trials. It also runs trials, for programs
//! that must find the harness under a fixed name.

use clap::{Parser, Subcommand};
use harness::cases;
use harness::plan::{self, choose};
use harness::run::planned::{keep_shard, planned};
use harness::settings::Settings;
use harness::show::{self, cache, doctor, explain, list, measure, plan_items};
use harness::vm::checkpoint::store::Store;
use harness::{entry, run, vm};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::SystemTime;

/// Looks at the matrix and at this host; settings come from NICMATRIX_* variables.
#[derive(Parser)]
#[command(name = "nicmatrix")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run trials, as `cargo test -p harness --test matrix` does
    Run {
        /// Arguments of libtest
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print the trials' names
    List {
        /// Only names that contain this
        filter: Option<String>,
        /// Print a JSON array with cell, plan item and action
        #[arg(long)]
        json: bool,
        /// Print the items of the test plan, with the cases that carry them and how many trials
        #[arg(long, conflicts_with = "json")]
        plan: bool,
    },
    /// Say what a trial is and does
    Explain {
        /// The trial's full name
        trial: String,
    },
    /// Start a trial's guest over and over, and print how long it took, a JSON object each
    Restores {
        /// The trial's full name; its case is not run
        trial: String,
        /// How many times
        #[arg(long, default_value = "10")]
        times: NonZeroUsize,
        /// How many at a time
        #[arg(long, default_value = "1")]
        at_once: NonZeroUsize,
    },
    /// Look at the saved guests, or remove them
    Cache {
        #[command(subcommand)]
        what: Cache,
    },
    /// Keep a lab that several runs share, or speak with it
    Lab {
        #[command(subcommand)]
        what: LabVerb,
    },
    /// Build the guest images that the profile needs, where they are not built
    Image,
    /// Say what this host can do, a line each
    Doctor,
    /// Print the identity of a run here and now, as JSON
    Identity,
}

#[derive(Subcommand)]
enum Cache {
    /// Print what is saved, the longest unused first
    List,
    /// Remove all that is not in use; it is made again when it is needed
    Clear,
}

#[derive(Subcommand)]
enum LabVerb {
    /// Start a lab, print a line when it is up, and keep it until `lab down`
    Keep {
        #[arg(long)]
        zcopytx: bool,
    },
    /// Say which labs are up
    Status,
    /// Open a shell in the first lab that is up
    Shell,
    /// End the labs that are up
    Down,
}

fn main() -> ExitCode {
    entry::main(|| dispatch(Cli::parse().verb))
}

fn dispatch(verb: Verb) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::from_env()?;
    match verb {
        Verb::Run { arguments } => run::trials(arguments),
        Verb::List { filter, json, plan } => {
            settings.only.filter.extend(filter);
            let planned = planned(&settings)?;
            let names = plan::names(&planned.trials);
            let mut trials = planned.trials;
            choose::keep(&settings.only, &names, &mut trials)?;
            keep_shard(&settings, &mut trials)?;
            if trials.is_empty() {
                let filters = settings.only.filter.join(" ");
                return Err(plan::nothing_matches(&names, &filters, settings.only.exact));
            }
            let text = match (plan, json) {
                (true, _) => plan_items::table(cases::all(), &trials),
                (false, true) => list::json(&trials)?,
                (false, false) => list::text(&trials),
            };
            print(&text)
        }
        Verb::Explain { trial } => {
            let plan = planned(&settings)?;
            let found = plan.trial(&trial)?;
            let (tested, missing) = match plan.capabilities.qemus.get(&found.cell.qemu) {
                Ok(tested) => (tested, None),
                Err(why) => (&plan.capabilities.qemus.default, Some(why)),
            };
            let kit = run::context::kit_so_far(&settings, tested, &found.cell.guest);
            let spec = found.vm_spec(&kit);
            let (version, line) = match missing {
                None => (
                    &*tested.facts.version,
                    tested.qemu.command(spec.arguments()).line(),
                ),
                Some(why) => ("none", why.to_owned()),
            };
            print(&explain::explain(
                found,
                version,
                &line,
                &vm::standard::topology(&spec),
            ))
        }
        Verb::Restores {
            trial,
            times,
            at_once,
        } => {
            measure::restores(&settings, &trial, times.get(), at_once.get(), |sample| {
                print(&format!("{}\n", serde_json::to_string(sample)?)).map(drop)
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Cache { what } => {
            let store = Store::new(settings.checkpoints());
            print(&match what {
                Cache::List => cache::list(&store.list(), store.limit()?, SystemTime::now()),
                Cache::Clear => {
                    let (gone, kept) = store.clear()?;
                    cache::cleared(&gone, &kept)
                }
            })
        }
        Verb::Lab { what } => match what {
            LabVerb::Keep { zcopytx } => {
                show::lab::keep(settings, zcopytx, |line| print(line).map(drop))?;
                Ok(ExitCode::SUCCESS)
            }
            LabVerb::Status => print(&show::lab::status(&settings)?),
            LabVerb::Down => print(&show::lab::down(&settings)?),
            LabVerb::Shell => {
                show::lab::shell(&settings)?;
                Ok(ExitCode::SUCCESS)
            }
        },
        Verb::Image => {
            let plan = planned(&settings)?;
            let (own, suites) = run::context::images(&settings, &plan.trials)?;
            let mut text = format!("{}\n", own.initrd.display());
            for built in suites.into_values() {
                text += &match built {
                    Ok(image) => format!("{}\n", image.initrd.display()),
                    Err(why) => format!("none: {why}\n"),
                };
            }
            print(&text)
        }
        Verb::Doctor => print(&doctor::examine(&settings)),
        Verb::Identity => {
            let plan = planned(&settings)?;
            let identity = run::identity::here(&settings, &plan)?;
            print(&(serde_json::to_string(&identity)? + "\n"))
        }
    }
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    report::out::text(text);
    Ok(ExitCode::SUCCESS)
}
