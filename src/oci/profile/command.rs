//! The command and the environment.

use oci_spec::image::Config as ImageConfig;

use super::Wishes;
use crate::error::{Error, Result};

/// PATH of images that name none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Entrypoint and command, by docker's rules: a command given replaces the image's; an entrypoint given replaces the
/// image's entrypoint and drops its command.
///
/// # Errors
/// `Invalid` when nothing is left to run.
pub fn arguments(wishes: &Wishes, image: &ImageConfig) -> Result<Vec<String>> {
    let mut args: Vec<String> = match &wishes.entrypoint {
        Some(entrypoint) if entrypoint.is_empty() => Vec::new(),
        Some(entrypoint) => vec![entrypoint.clone()],
        None => image.entrypoint().clone().unwrap_or_default(),
    };
    if !wishes.command.is_empty() {
        args.extend(wishes.command.iter().cloned());
    } else if wishes.entrypoint.is_none() {
        args.extend(image.cmd().clone().unwrap_or_default());
    }
    if args.is_empty() {
        return Err(
            Error::invalid("no command to run").hint("the image names none: give one after the image")
        );
    }
    Ok(args)
}

/// The environment: the image's, then what a container is told, then the user's; the last of a name wins.
pub fn environment(wishes: &Wishes, image: &ImageConfig, home: &str, hostname: &str) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |entry: String| {
        let name = entry.split('=').next().unwrap_or_default().to_owned();
        match env.iter_mut().find(|e| e.split('=').next() == Some(name.as_str())) {
            Some(place) => *place = entry,
            None => env.push(entry),
        }
    };
    set(PATH.to_owned());
    set(format!("HOSTNAME={hostname}"));
    set(format!("HOME={home}"));
    if wishes.terminal {
        set("TERM=xterm".to_owned());
    }
    image.env().iter().flatten().chain(&wishes.env).for_each(|entry| set(entry.clone()));
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(entrypoint: &[&str], cmd: &[&str]) -> ImageConfig {
        let list = |l: &[&str]| Some(l.iter().map(|s| (*s).to_owned()).collect());
        let mut config = ImageConfig::default();
        config.set_entrypoint(list(entrypoint));
        config.set_cmd(list(cmd));
        config
    }

    fn args(wishes: &Wishes, image: &ImageConfig) -> String {
        arguments(wishes, image).unwrap().join(" ")
    }

    #[test]
    fn entrypoint_and_command_combine_as_in_docker() {
        let image = image(&["/entry"], &["serve", "now"]);
        let mut wishes = Wishes::default();
        assert_eq!(args(&wishes, &image), "/entry serve now");
        wishes.command = vec!["help".into()];
        assert_eq!(args(&wishes, &image), "/entry help");
        wishes.entrypoint = Some("sh".into());
        assert_eq!(args(&wishes, &image), "sh help");
        wishes.command.clear();
        assert_eq!(args(&wishes, &image), "sh");
        wishes.entrypoint = Some(String::new());
        assert!(arguments(&wishes, &image).is_err());
    }

    #[test]
    fn the_last_value_of_a_variable_wins() {
        let mut image = ImageConfig::default();
        image.set_env(Some(vec!["PATH=/img".into(), "A=1".into()]));
        let wishes = Wishes { env: vec!["A=2".into(), "B=x=y".into()], ..Wishes::default() };
        let env = environment(&wishes, &image, "/root", "box");
        assert_eq!(env, ["PATH=/img", "HOSTNAME=box", "HOME=/root", "A=2", "B=x=y"]);
    }
}
