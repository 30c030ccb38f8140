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
use tokio::time::{Instant, interval_at, sleep, timeout};

use crate::access::system_permit;
use crate::backend::Running;
use crate::error::{bad_request, failure};
use crate::gateway::Line;
use crate::sessions::Caller;

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
    let bound = permit.bounds().time;
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
        Ok(()) => until_the_end(running, &mounted, &unmounted, bound, line).await,
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => match block_in_place(|| mounted.end()) {
            Ok(Sums { files, read, written, .. }) => line.answer(&MountAnswer::Ended { files, read, written }).await,
            Err(error) => line.fail(&failure(&error)).await,
        },
        Err(error) => {
            // Whoever was revoked gets no more of it; others may hand over what the kernel still has.
            if !matches!(error, NetError::Closed(CloseReason::Revoked)) {
                let _closed = line.sender.close(crate::gateway::close_reason(&error)).await;
                let _cut = timeout(GRACE, unmounted.notified()).await;
            }
            let _recorded = block_in_place(|| mounted.end());
            Err(error)
        }
    }
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

/// Returns when it was unmounted; an error is why it has to be.
async fn until_the_end(
    running: &Running,
    mounted: &Mounted<'_>,
    unmounted: &Notify,
    bound: Duration,
    line: &mut Line<'_>,
) -> Result<(), NetError> {
    let mut stopping = running.stopping();
    let over = sleep(bound);
    tokio::pin!(over);
    let mut tell = interval_at(Instant::now() + TELL, TELL);
    loop {
        tokio::select! {
            biased;
            left = line.receiver.receive() => return left.and(Err(NetError::UnexpectedMessage)),
            () = unmounted.notified() => return Ok(()),
            () = stopping.wait() => return Err(NetError::Closed(CloseReason::Shutdown)),
            () = &mut over => return Err(NetError::Closed(CloseReason::Limit)),
            _ = tell.tick() => {
                let Sums { files, read, written, .. } = mounted.sums();
                line.answer(&MountAnswer::Going { files, read, written }).await?;
            }
        }
    }
}

fn busy(message: &str) -> Failure {
    let hint = Some("unmount them there first".to_owned());
    Failure { code: FailureCode::Busy, message: message.to_owned(), hint }
}

fn expired() -> Failure {
    let message = "no descriptor was handed over in time".to_owned();
    Failure { code: FailureCode::Expired, message, hint: None }
}
