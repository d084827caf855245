"""Names shared by the rehearsal's server and its clients. Imports nothing heavy."""

from dataclasses import dataclass

ACCOUNT = "123456789012"
REGION = "us-east-1"
BUCKET = "dogbreed-rehearsal"
ROLE, ROLE_PATH = "DogBreedTraining", "/service-role/"  # as SageMaker's console makes roles
IDENTITY_HEADER = "X-Dogbreed-Rehearsal"  # of every answer, so that it is not taken for AWS
STATE_HEADER = "X-Dogbreed-Rehearsal-State"  # of what it denies: its state folder, for the message
FAULTS_HEADER, SESSION_HEADER = "X-Rehearsal-Faults", "X-Rehearsal-Session"
SERVER_FILE, LOCK_FILE, LOG_FILE = "server.json", "server.lock", "server.log"


@dataclass(frozen=True)
class Server:
    """The server's URL, and the administrator's access key: only users who can read its state can use it."""

    url: str
    key: str
