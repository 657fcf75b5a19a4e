//! `coracle launch --detach`: the keeper is the container's parent.

use std::path::Path;
use std::rc::Rc;

use super::{LaunchArgs, PreparedLaunch};
use crate::cli::{Context, report};
use crate::error::{Doing, Error, Kind, Result};
use crate::keeper::client::{Client, KeeperSpawner};
use crate::keeper::{Order, Stdin};
use crate::launch::self_protect::own_path;
use crate::oci::create::CreateOptions;
use crate::oci::{foreground, run};
use crate::record::Layout;

/// The container's log, in its directory in the store.
pub(in crate::cli) const LOG: &str = "log";

pub(super) fn launch(context: &Context, args: &LaunchArgs, prepared: PreparedLaunch) -> Result<()> {
    let PreparedLaunch { id, spec, container, create } = prepared;
    // The keeper follows no symbolic links in a log's path, so those that lead to the store are resolved here.
    let directory =
        std::fs::canonicalize(container.directory()).doing(|| "find the container's directory")?;
    let layout = Layout::new(&absolute(&context.root)?, &id);
    let order = Order {
        id: id.to_string(),
        log: Some(directory.join(LOG)),
        exit_file: Some(layout.exit()),
        exit_command: if args.rm { removal(context, id.as_str())? } else { Vec::new() },
        stdin: match (args.interactive, args.stdin_once) {
            (false, _) => Stdin::None,
            (true, false) => Stdin::Open,
            (true, true) => Stdin::Once,
        },
        ..Order::default()
    };
    let (ours, theirs) =
        if args.tty { foreground::console_pair().map(|(o, t)| (Some(o), Some(t)))? } else { (None, None) };
    let spawner = Rc::new(KeeperSpawner::new(Client::connect_or_start(&context.run)?, order, ours));
    let create = CreateOptions { parent: Some(Rc::clone(&spawner) as Rc<_>), ..create };
    match run::run_in_keeper(&context.runtime(), &id, &spec, &create, theirs) {
        Ok(()) => {
            // The directory must be kept before the keeper may run the command that removes it.
            container.leave();
            spawner.keep()?;
            report::print(&format!("{id}\n"))
        }
        Err(error) => {
            spawner.give_up();
            Err(error)
        }
    }
}

/// The command that the keeper executes when an ephemeral container has ended. It must not remove a later container of the
/// same name.
fn removal(context: &Context, id: &str) -> Result<Vec<String>> {
    let program = own_path()
        .ok_or_else(|| Error::new(Kind::NotFound, "the path of this program's executable is unknown"))?;
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Error::invalid(format!("{} is not UTF-8, which --detach needs", path.display())))
    };
    let (root, store) = (absolute(&context.root)?, absolute(&context.store)?);
    let words = [&text(&program)?, "--root", &text(&root)?, "--store", &text(&store)?, "rm", "--ended", id];
    Ok(words.map(str::to_owned).into())
}

fn absolute(path: &Path) -> Result<std::path::PathBuf> {
    std::path::absolute(path).doing(|| format!("find {}", path.display()))
}
