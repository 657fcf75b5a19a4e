//! What ends a session of a command: `metav1.Status` of Kubernetes, as clients read it from the error stream.

use serde_json::{Value, json};

use crate::error::Error;

/// How a session ended.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    /// The command has exited with this code; an attached container has ended with code 0 here.
    Exited(i32),
    /// The command could not be run; `doing` says of what that is a part.
    Failed { doing: &'static str, error: Error },
}

impl Ending {
    /// For the protocols v4 and v5: JSON, also for success.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let status = match self {
            Self::Exited(0) => json!({"metadata": {}, "status": "Success"}),
            Self::Exited(code) => failure(
                &self.message(),
                "NonZeroExitCode",
                &json!([{"reason": "ExitCode", "message": code.to_string()}]),
                None,
            ),
            Self::Failed { doing, error } => failure(
                &self.message(),
                "InternalError",
                &json!([{"message": format!("{doing}: {error}")}]),
                Some(500),
            ),
        };
        status.to_string().into_bytes()
    }

    /// For the older protocols: a text, only for failure.
    pub(super) fn to_text(&self) -> Option<Vec<u8>> {
        match self {
            Self::Exited(0) => None,
            _ => Some(self.message().into_bytes()),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Exited(0) => String::new(),
            Self::Exited(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Self::Failed { doing, error } => format!("Internal error occurred: {doing}: {error}"),
        }
    }
}

fn failure(message: &str, reason: &str, causes: &Value, code: Option<u16>) -> Value {
    let mut status = json!({
        "metadata": {}, "status": "Failure", "message": message, "reason": reason, "details": {"causes": causes},
    });
    if let (Some(code), Some(status)) = (code, status.as_object_mut()) {
        status.insert("code".to_owned(), code.into());
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(ending: &Ending) -> Value {
        serde_json::from_slice(&ending.to_json()).unwrap()
    }

    #[test]
    fn clients_find_the_exit_code_where_kubernetes_puts_it() {
        assert_eq!(json_of(&Ending::Exited(0)), json!({"metadata": {}, "status": "Success"}));
        assert_eq!(Ending::Exited(0).to_text(), None);
        let failed = json_of(&Ending::Exited(7));
        assert_eq!((&failed["status"], &failed["reason"]), (&json!("Failure"), &json!("NonZeroExitCode")));
        assert_eq!(failed["details"]["causes"], json!([{"reason": "ExitCode", "message": "7"}]));
        assert!(failed.get("code").is_none());
    }

    #[test]
    fn a_command_that_cannot_be_run_says_why() {
        let error = Error::invalid("no such file");
        let ending = Ending::Failed { doing: "error executing command in container", error };
        let status = json_of(&ending);
        let message = "Internal error occurred: error executing command in container: no such file";
        assert_eq!((&status["message"], &status["code"]), (&json!(message), &json!(500)));
        assert_eq!(ending.to_text().unwrap(), message.as_bytes());
    }
}
