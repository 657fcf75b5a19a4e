//! The process of a container: its arguments, environment and working directory.

use std::path::PathBuf;

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{Process, User};

use super::request::{ContainerRequest, ProcessRequest, Variable};
use super::{Resolved, defaults, security};
use crate::error::{Error, Result};

pub(super) fn process(request: &ContainerRequest, resolved: &Resolved) -> Result<Process> {
    let asked = &request.process;
    let user = &resolved.user;
    let env = environment(asked, &resolved.image, resolved.hostname.as_deref(), user.home.as_deref());
    let mut ids = User::default();
    ids.set_uid(user.uid)
        .set_gid(user.gid)
        .set_additional_gids((!user.groups.is_empty()).then(|| user.groups.clone()));
    let mut process = Process::default();
    process
        .set_terminal(Some(asked.terminal))
        .set_user(ids)
        .set_args(Some(arguments(asked, &resolved.image)?))
        // A runtime configuration is UTF-8, so other values cannot be passed.
        .set_env(Some(env.into_iter().filter_map(|entry| String::from_utf8(entry).ok()).collect()))
        .set_cwd(working_dir(asked, &resolved.image)?)
        .set_capabilities(Some(security::capability_sets(request, user.uid == 0)))
        .set_no_new_privileges(Some(asked.no_new_privileges))
        .set_rlimits((!asked.rlimits.is_empty()).then(|| asked.rlimits.clone()))
        .set_oom_score_adj(asked.oom_score_adj)
        .set_apparmor_profile(resolved.apparmor.clone())
        .set_selinux_label(resolved.selinux_label.clone());
    Ok(process)
}

/// The program and its arguments: a requested entrypoint replaces the image's and drops the image's command;
/// requested arguments replace the image's command.
///
/// # Errors
/// `Invalid` when there is nothing to run, or an argument contains a NUL byte.
fn arguments(request: &ProcessRequest, image: &ImageConfig) -> Result<Vec<String>> {
    let of_image = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let mut all = request.entrypoint.clone().unwrap_or_else(|| of_image(image.entrypoint()));
    match (&request.entrypoint, request.args.is_empty()) {
        (None, true) => all.extend(of_image(image.cmd())),
        (Some(_), true) => {}
        (_, false) => all.extend(request.args.iter().cloned()),
    }
    if all.is_empty() {
        return Err(Error::invalid("no command to run: neither the container nor its image names one")
            .hint("give one after the image, or in the container's configuration"));
    }
    match all.iter().find(|argument| argument.contains('\0')) {
        Some(bad) => Err(Error::invalid(format!("the argument {bad:?} has a NUL in it"))),
        None => Ok(all),
    }
}

/// The environment as `NAME=VALUE`: the defaults, then the image's, then the request's; of equal names the last one
/// counts.
fn environment(
    request: &ProcessRequest,
    image: &ImageConfig,
    hostname: Option<&str>,
    home: Option<&str>,
) -> Vec<Vec<u8>> {
    let mut env: Vec<Vec<u8>> = Vec::new();
    let mut set = |entry: Vec<u8>| match env.iter_mut().find(|own| name_of(own) == name_of(&entry)) {
        Some(own) => *own = entry,
        None => env.push(entry),
    };
    set(format!("PATH={}", defaults::PATH).into_bytes());
    hostname.into_iter().for_each(|hostname| set(format!("HOSTNAME={hostname}").into_bytes()));
    home.into_iter().for_each(|home| set(format!("HOME={home}").into_bytes()));
    if request.terminal {
        set(b"TERM=xterm".to_vec());
    }
    image.env().iter().flatten().for_each(|entry| set(entry.clone().into_bytes()));
    for Variable { name, value } in &request.env {
        set([name.as_bytes(), b"=", value].concat());
    }
    env
}

fn name_of(entry: &[u8]) -> &[u8] {
    entry.split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// # Errors
/// `Invalid` for a relative path.
fn working_dir(request: &ProcessRequest, image: &ImageConfig) -> Result<PathBuf> {
    let of_image = image.working_dir().as_ref().map(PathBuf::from);
    let path = request.working_dir.clone().or(of_image).filter(|path| !path.as_os_str().is_empty());
    match path.unwrap_or_else(|| PathBuf::from("/")) {
        path if path.is_absolute() => Ok(path),
        path => Err(Error::invalid(format!("working directory {path:?} is not an absolute path"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn run(entrypoint: Option<&str>, args: &str, image: &ImageConfig) -> Result<Vec<String>> {
        let entrypoint = entrypoint.map(list);
        arguments(&ProcessRequest { entrypoint, args: list(args), ..ProcessRequest::default() }, image)
    }

    fn variable(name: &str, value: &[u8]) -> Variable {
        Variable { name: name.to_owned(), value: value.to_vec() }
    }

    fn env(envs: Vec<Variable>, image: &[&str]) -> Vec<Vec<u8>> {
        let mut config = ImageConfig::default();
        config.set_env(Some(image.iter().map(|entry| (*entry).to_owned()).collect()));
        let request = ProcessRequest { env: envs, ..ProcessRequest::default() };
        environment(&request, &config, Some("box"), Some("/root"))
    }

    #[test]
    fn entrypoint_and_arguments_replace_what_the_image_says() {
        let mut image = ImageConfig::default();
        image.set_entrypoint(Some(list("/entry"))).set_cmd(Some(list("serve now")));
        assert_eq!(run(None, "", &image).unwrap(), list("/entry serve now"));
        assert_eq!(run(None, "help", &image).unwrap(), list("/entry help"));
        assert_eq!(run(Some("sh"), "", &image).unwrap(), list("sh"));
        assert_eq!(run(Some("sh"), "-c ls", &image).unwrap(), list("sh -c ls"));
        assert_eq!(run(Some(""), "ls", &image).unwrap(), list("ls"));
        assert_eq!(run(None, "ls", &ImageConfig::default()).unwrap(), list("ls"));
        for (entrypoint, image) in [(Some(""), &image), (None, &ImageConfig::default())] {
            assert!(run(entrypoint, "", image).unwrap_err().to_string().contains("no command"));
        }
        let args = vec!["a\0b".to_owned()];
        let with_nul = ProcessRequest { args, ..ProcessRequest::default() };
        assert!(arguments(&with_nul, &image).unwrap_err().to_string().contains("NUL"));
    }

    #[test]
    fn values_are_bytes_and_the_last_of_a_name_counts() {
        let own = vec![variable("A", b"own"), variable("RAW", b"\xff\xfe=x"), variable("A", b"last")];
        let expected: [&[u8]; 5] =
            [b"PATH=/img", b"HOSTNAME=box", b"HOME=/root", b"A=last", b"RAW=\xff\xfe=x"];
        assert_eq!(env(own, &["PATH=/img", "A=image"]), expected);
    }

    #[test]
    fn the_working_directory_is_absolute() {
        let of = |request: Option<&str>, image: Option<&str>| {
            let mut config = ImageConfig::default();
            config.set_working_dir(image.map(str::to_owned));
            let working_dir = request.map(PathBuf::from);
            working_dir_text(&ProcessRequest { working_dir, ..ProcessRequest::default() }, &config)
        };
        fn working_dir_text(request: &ProcessRequest, image: &ImageConfig) -> Option<String> {
            working_dir(request, image).ok().map(|path| path.display().to_string())
        }
        assert_eq!(of(None, None).as_deref(), Some("/"));
        assert_eq!(of(None, Some("")).as_deref(), Some("/"));
        assert_eq!(of(None, Some("/srv")).as_deref(), Some("/srv"));
        assert_eq!(of(Some("/own"), Some("/srv")).as_deref(), Some("/own"));
        assert_eq!(of(Some("own"), None), None);
        assert_eq!(of(None, Some("srv")), None);
    }

    proptest! {
        /// Each name appears once in the result, with its last value.
        #[test]
        fn an_environment_has_each_name_once(envs in proptest::collection::vec(("[A-C]", "[a-z=]{0,3}"), 0..8)) {
            let all = env(envs.iter().map(|(name, value)| variable(name, value.as_bytes())).collect(), &[]);
            for (name, _) in &envs {
                let own: Vec<_> = all.iter().filter(|e| e.starts_with(format!("{name}=").as_bytes())).collect();
                let last = &envs.iter().rev().find(|(n, _)| n == name).unwrap().1;
                prop_assert_eq!(own, [&format!("{name}={last}").into_bytes()]);
            }
        }
    }
}
