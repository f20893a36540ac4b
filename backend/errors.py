"""The exceptions this project raises, as one tree.

HardestFirstError
 ├── SettingsError          a setting or option is missing, malformed or contradicts another
 ├── ScoreError             class scores, embeddings or weights that cannot be ranked
 ├── WeightsError           weights that are not allowed, not there, or cannot be loaded
 ├── ImageError             one image that cannot be fetched or decoded (the others go on)
 ├── LabelConfigError       a label config this backend cannot pre-annotate
 ├── NothingToRankError     a project without unlabelled images that can be scored
 ├── StoreError             the local database cannot be read or written
 ├── BusyError              this cannot be done right now; later it can
 ├── OrderError             no order is published, or what is shown is not ours to change
 ├── PromotionError         a model that cannot be promoted, or not be rolled back
 ├── QueueError             no such job, or one that blocks another
 ├── JobFailedError         a job that was run at once failed, or was cancelled
 ├── EngineError            the engine that scores on several machines is missing, or failed
 ├── TrainingError          a training that cannot start or failed; the model that serves stays
 ├── SimulationError        a replay that cannot start, or runs of it that failed
 ├── ApiKeyError            a key of the API that cannot be made or revoked
 └── LabelStudioError       Label Studio refused, or did not answer as it must
      ├── UnreachableError  no answer: it is down, or the address is wrong
      ├── AccessError       the token is wrong, expired or lacks the right
      ├── RefusedError      it answered with an error status
      └── PublishError      an order could not be published; the old one is still served

Every message is one line that names the thing and the remedy. None holds a secret.
"""


class HardestFirstError(Exception):
    """The root: catch this to catch everything this project raises on purpose."""


class SettingsError(HardestFirstError):
    """A setting or option is missing, malformed or contradicts another."""


class ScoreError(HardestFirstError, ValueError):
    """Class scores, embeddings or weights that cannot be ranked (wrong shape, range, NaN)."""


class WeightsError(HardestFirstError):
    """Weights that are not allowed, not there, or cannot be loaded."""


class ImageError(HardestFirstError):
    """One image that cannot be fetched or decoded. The other images go on."""


class LabelConfigError(HardestFirstError):
    """A label config this backend cannot pre-annotate."""


class NothingToRankError(HardestFirstError):
    """A project without unlabelled images that can be scored: it is empty, or done."""


class StoreError(HardestFirstError):
    """The local database cannot be read or written."""


class BusyError(HardestFirstError):
    """This cannot be done right now. It can when it is asked for again a little later."""


class OrderError(HardestFirstError):
    """No order is published, or what annotators are shown is not, or no longer, ours to change."""


class PromotionError(HardestFirstError):
    """A model cannot be promoted, or a promotion cannot be taken back."""


class QueueError(HardestFirstError):
    """There is no such job, or a running one blocks another."""


class JobFailedError(HardestFirstError):
    """A job that was run at once failed, or was cancelled."""


class EngineError(HardestFirstError):
    """The engine that scores on several machines is missing, cannot be used here, or failed."""


class TrainingError(HardestFirstError):
    """A training cannot start, or failed. The model that serves stays."""


class SimulationError(HardestFirstError):
    """A replay cannot start, or some of its runs failed."""


class ApiKeyError(HardestFirstError):
    """A key of the API cannot be made or revoked."""


class LabelStudioError(HardestFirstError):
    """Label Studio refused a call, or did not answer as it must."""


class UnreachableError(LabelStudioError):
    """Label Studio does not answer: it is down, or the address is wrong."""


class AccessError(LabelStudioError):
    """The token is wrong, expired, or lacks the right to do this."""


class RefusedError(LabelStudioError):
    """Label Studio answered, but with an error status.

    Args:
        message: one line.
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class PublishError(LabelStudioError):
    """An order could not be published. The old order is still served."""


# Why a running job has to stop. No errors to show, and no `Exception`: a handler that goes on past
# one bad image must not go on past these.


class JobStopped(BaseException):
    """The root: catch it only to clean up, and raise it again."""


class JobCancelled(JobStopped):
    """The job was cancelled."""


class JobInterrupted(JobStopped):
    """The worker is shutting down; the job goes back to the queue."""


class JobLost(JobStopped):
    """The job was given to another process, because this one sent no heartbeat for too long."""
