"""The launch of an app by a SMART client that is not Wetread's (the SMART Python client):

    python smart_client_launch.py BASE_URL CLIENT_ID SECRET REDIRECT_URI SCOPE LAUNCH

Prints the address that the browser is to go to, reads the one that it came back to, and prints what came of it: the
launch context, the patient read with the token, and the same with a token that was refreshed. SECRET and LAUNCH may be
empty.
"""

from __future__ import annotations

import json
import sys

from fhirclient.client import FHIRClient
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient

_BASE_URL, _CLIENT_ID, _SECRET, _REDIRECT_URI, _SCOPE, _LAUNCH = sys.argv[1:]
settings = {"app_id": _CLIENT_ID, "api_base": _BASE_URL, "redirect_uri": _REDIRECT_URI, "scope": _SCOPE}
settings |= {name: value for name, value in (("app_secret", _SECRET), ("launch_token", _LAUNCH)) if value}
smart = FHIRClient(settings=settings)
assert not smart.prepare(), "there is nothing to read with yet"
print(smart.authorize_url, flush=True)
smart.handle_callback(sys.stdin.readline().strip())
assert smart.ready
first = smart.server.auth.access_token
told = {
    "context": smart.launch_context,
    "patient": smart.patient.as_json(),
    "name": smart.human_name(smart.patient.name[0]),
}
found = Observation.where({"patient": smart.patient_id}).perform_resources(smart.server)
told["observations"] = sorted(each.id for each in found)
assert smart.reauthorize(), "the refresh token was taken"
told["is_new"] = smart.server.auth.access_token != first
told["again"] = Patient.read(smart.patient_id, smart.server).as_json()
print(json.dumps(told), flush=True)
