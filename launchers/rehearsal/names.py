"""What the rehearsal's server and those who talk to it agree on. Nothing heavy is imported here."""

ACCOUNT = "123456789012"
REGION = "us-east-1"
BUCKET = "dogbreed-rehearsal"
ROLE = "DogBreedTraining"
FAULTS_HEADER, SESSION_HEADER = "X-Rehearsal-Faults", "X-Rehearsal-Session"
SERVER_FILE, LOCK_FILE, LOG_FILE = "server.json", "server.lock", "server.log"
