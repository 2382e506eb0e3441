use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

/// The program as a process of its own, for what can only be done to a process.
pub(crate) struct Binary {
    child: Child,
    pub(crate) url: String,
}

/// A command line of the program with an empty environment but these settings.
pub(crate) fn command(data: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-fabric"));
    command.args(arguments).env_clear().current_dir(data.parent().unwrap());
    command.env("PATH", std::env::var("PATH").unwrap()).env("FABRIC_DATA_DIR", data).env("FABRIC_LISTEN", "127.0.0.1:0");
    command.envs([("FABRIC_SYNC_ON_START", "false"), ("FABRIC_SYNC_CRON", "off"), ("FABRIC_LOG", "info"), ("INSTALL_ON_START", "off")]);
    command.envs([("FABRIC_NPM_REGISTRY", "http://127.0.0.1:9/"), ("FABRIC_PYPI_INDEX", "http://127.0.0.1:9/")]);
    if settings.iter().any(|(key, _)| *key == "DATABASE_URL") {
        let [master, jwt] = super::keys();
        command.envs([("CREDENTIAL_ENCRYPTION_KEY", master), ("JWT_SECRET_KEY", jwt)]);
    }
    command.envs(settings.iter().copied());
    command
}

impl Binary {
    /// Starts `serve` and waits until it says where it listens.
    pub(crate) fn serve(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = command(data, settings, &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        assert!(url.starts_with("http"), "it did not start: {line:?}");
        Self { child, url }
    }

    /// Runs a command to its end.
    pub(crate) fn run(data: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
        command(data, settings, arguments).output().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; gives how long it took to end, and whether it ended well.
    pub(crate) fn terminate(mut self) -> (Duration, bool) {
        let began = std::time::Instant::now();
        let done = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
        let status = self.child.wait().unwrap();
        (began.elapsed(), status.success())
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
