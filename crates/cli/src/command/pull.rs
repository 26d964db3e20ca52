//! `cachalot pull`: download a model.

use std::io::{self, Write};

use anyhow::anyhow;
use clap::Args;

use crate::byte_size::ByteSize;
use crate::env;
use crate::hint::ResultExt;
use crate::hub::Hub;
use crate::source::HubId;

/// Download a model from the hub into its cache
///
/// An interrupted download resumes when the command is run again. Every file is checked before it is used: large ones by
/// their SHA-256, small ones by the hash that git gives them.
#[derive(Args, Clone, Debug)]
pub(crate) struct PullArgs {
    /// OWNER/NAME, or OWNER/NAME@REVISION
    #[arg(value_name = "MODEL", env = env::MODEL)]
    model: HubId,
    /// Address of the hub, if not the public one
    #[arg(long, env = env::HF_ENDPOINT, value_name = "URL")]
    endpoint: Option<String>,
    /// Access token for models that need permission
    #[arg(long, env = env::HF_TOKEN, hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be brought completely.
pub(crate) fn run(args: PullArgs) -> anyhow::Result<()> {
    let cache = env::hub_cache()
        .ok_or_else(|| anyhow!("there is no home folder to download to"))
        .hint(format!("set {} to a folder that may be written", env::HF_HOME))?;
    // A variable that is set to nothing means the same as one that is not set.
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let pulled = Hub::new(given(args.endpoint).as_deref(), cache, given(args.token))?.pull(&args.model)?;
    writeln!(
        io::stdout(),
        "{}: {} files, {} of them already here, {} downloaded\n{}",
        args.model,
        pulled.num_files,
        pulled.num_present,
        ByteSize(pulled.downloaded_bytes),
        pulled.folder.display()
    )?;
    Ok(())
}
