//! The owner's files as the system's: the client mounts, hands the descriptor over, and keeps its channel open as long as
//! the mount lives (`docs/spec/requests.md`, Mount).

use std::sync::Arc;
use std::time::Duration;

use aico_net::Error as NetError;
use aico_policy::{Action, Permit};
use aico_proto::CloseReason;
use aico_proto::message::{Failure, FailureCode, MountAnswer};
use aico_vault::{Looks, Mounted, Sums};
use tokio::sync::Notify;
use tokio::task::block_in_place;
use tokio::time::{Instant, interval_at, timeout};

use crate::access::system_permit;
use crate::backend::Running;
use crate::error::{bad_request, failure};
use crate::gateway::Line;
use crate::sessions::Caller;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often the client hears how it goes; so its channel is not taken for unused.
const TELL: Duration = Duration::from_secs(20);
/// How long a client has to unmount once its channel is over, or the backend stops: less than a lock waits.
const GRACE: Duration = Duration::from_millis(800);

pub(crate) async fn mount(
    running: &Running,
    caller: &Caller,
    looks: Looks,
    line: &mut Line<'_>,
) -> Result<(), NetError> {
    let Some(process) = caller.process() else {
        return line.fail(&bad_request("files are mounted through the Unix socket only")).await;
    };
    // One that has just been unmounted may still be ending.
    let Ok(Ok(_only_one)) = timeout(2 * GRACE, running.mounting().acquire()).await else {
        return line.fail(&busy("the files are mounted already")).await;
    };
    let permit = match block_in_place(|| system_permit(running, caller, Action::MountFiles)) {
        Ok(permit) => permit,
        Err(failure) => return line.fail(&failure).await,
    };
    let Some((ticket, mut coming)) = running.descriptors().expect(process)? else {
        return line.fail(&busy("too many descriptors are expected")).await;
    };
    line.answer(&MountAnswer::HandOver { ticket }).await?;
    let mut stopping = running.stopping();
    let device = tokio::select! {
        biased;
        () = stopping.wait() => return Err(NetError::Closed(CloseReason::Shutdown)),
        left = line.receiver.receive() => return left.and(Err(NetError::UnexpectedMessage)),
        came = coming.wait() => came,
    };
    let unmounted = Arc::new(Notify::new());
    let begun = device.map_err(|_| expired()).and_then(|device| begin(running, permit, device, looks, &unmounted));
    let mounted = match begun {
        Ok(mounted) => mounted,
        Err(failure) => return line.fail(&failure).await,
    };
    let ended = match line.answer(&MountAnswer::Mounted {}).await {
        Ok(()) => until_the_end(running, &mounted, &unmounted, line).await,
        Err(error) => Err(error),
    };
    // Whoever was revoked gets no more of it; others may hand over what the kernel still has.
    let told = match &ended {
        Ok(End::Unmounted) | Err(NetError::Closed(CloseReason::Revoked)) => Ok(()),
        Ok(End::Over) => line.fail(&over()).await,
        Err(error) => line.sender.close(crate::gateway::close_reason(error)).await,
    };
    if !matches!(ended, Ok(End::Unmounted) | Err(NetError::Closed(CloseReason::Revoked))) {
        let _cut = timeout(GRACE, unmounted.notified()).await;
    }
    let recorded = block_in_place(|| mounted.end());
    match (ended?, recorded) {
        (End::Over, _) => told,
        (End::Unmounted, Ok(Sums { files, read, written, .. })) => {
            line.answer(&MountAnswer::Ended { files, read, written }).await
        }
        (End::Unmounted, Err(error)) => line.fail(&failure(&error)).await,
    }
}

/// How a mount ended while its channel goes on.
enum End {
    Unmounted,
    /// It came to its bounds, or what it showed was forgotten.
    Over,
}

fn begin<'a>(
    running: &'a Running,
    permit: Permit,
    device: std::os::fd::OwnedFd,
    looks: Looks,
    unmounted: &Arc<Notify>,
) -> Result<Mounted<'a>, Failure> {
    let unmounted = unmounted.clone();
    let begun = block_in_place(|| running.vault().mount(permit, device, looks, move || unmounted.notify_one()));
    begun.map_err(|error| failure(&error))
}

/// Returns when it has ended; an error is why it has to.
async fn until_the_end(
    running: &Running,
    mounted: &Mounted<'_>,
    unmounted: &Notify,
    line: &mut Line<'_>,
) -> Result<End, NetError> {
    let mut stopping = running.stopping();
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    let mut told = Instant::now();
    loop {
        tokio::select! {
            biased;
            left = line.receiver.receive() => return left.and(Err(NetError::UnexpectedMessage)),
            () = unmounted.notified() => return Ok(End::Unmounted),
            () = stopping.wait() => return Err(NetError::Closed(CloseReason::Shutdown)),
            _ = look.tick() => {}
        }
        if mounted.is_over() {
            return Ok(End::Over);
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            let Sums { files, read, written, .. } = mounted.sums();
            line.answer(&MountAnswer::Going { files, read, written }).await?;
        }
    }
}

fn over() -> Failure {
    let message = "the mount came to its bounds of time or bytes, or what it showed was forgotten".to_owned();
    Failure { code: FailureCode::Expired, message, hint: Some("mount again".to_owned()) }
}

fn busy(message: &str) -> Failure {
    let hint = Some("unmount them there first".to_owned());
    Failure { code: FailureCode::Busy, message: message.to_owned(), hint }
}

fn expired() -> Failure {
    let message = "no descriptor was handed over in time".to_owned();
    Failure { code: FailureCode::Expired, message, hint: None }
}
