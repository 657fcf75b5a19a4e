//! The `coracle` command. Everything is in the library; see `cli`.

fn main() -> std::process::ExitCode {
    coracle::cli::main()
}
