//! The `coracle-keeper` program. Everything is in the library; see `keeper`.

fn main() -> std::process::ExitCode {
    coracle::keeper::main()
}
