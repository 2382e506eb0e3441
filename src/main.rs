//! Reads the command line and runs one command.

use std::process::ExitCode;

use clap::Parser as _;
use mcp_fabric::cli::{self, Cli};

/// Many small allocations a request: this one takes a sixth less CPU for them than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
/// `mi_option_purge_delay` of mimalloc 3: for how many milliseconds what is free is kept from the system.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    give_back_at_once();
    let mut arguments = std::env::args().skip(1);
    if arguments.next().is_some_and(|first| first == sandbox::LAUNCH) {
        // Before there is a second thread: this becomes another program.
        return cli::not_launched(&sandbox::launch(&arguments.next().unwrap_or_default()));
    }
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::fail(&cli::CliError::Runtime(error)),
    };
    match runtime.block_on(cli::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::fail(&error),
    }
}

/// What an install needed for a moment would stay ours until something else is allocated. Requests cost the same.
#[expect(unsafe_code, reason = "the allocator has no other way to be told")]
fn give_back_at_once() {
    // SAFETY: it sets a number that the allocator reads; no other thread runs yet.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
}
