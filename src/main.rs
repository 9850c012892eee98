//! Arguments -> exit code, nothing else.

use std::process::ExitCode;

/// Half of glibc's memory for an idle connection at the same CPU time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    edgeshim::main()
}
