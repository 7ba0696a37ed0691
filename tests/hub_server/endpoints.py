"""What a Hub answers: one function for each endpoint, from a request to an answer. Knows nothing of sockets."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from tests.hub_server.messages import Answer, Refusal, Request, json_answer
from tests.hub_server.repositories import DATE, MAIN, Commit, File, Repository, is_lfs
from tests.hub_server.xet_store import XetStore


@dataclass
class Hub:
    """Users, repositories and large files. `endpoint` and `cdn` are the same server under two host names."""

    users: dict[str, str]
    endpoint: str = ""
    cdn: str = ""
    xet: XetStore | None = None
    repositories: dict[str, Repository] = field(default_factory=dict)
    large_files: dict[str, bytes] = field(default_factory=dict)

    def answer(self, request: Request) -> Answer:
        for methods, pattern, handler in ROUTES:
            if request.method in methods and (match := pattern.fullmatch(request.target)):
                groups = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                try:
                    return handler(self, request, **groups)
                except Refusal as refusal:
                    return refusal.answer
        return json_answer({"error": "Not Found"}, 404)

    def user(self, request: Request) -> str | None:
        if request.authorization is None:
            return None
        user = self.users.get(request.authorization.removeprefix("Bearer "))
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def readable(self, request: Request, repo: str) -> Repository:
        user, repository = self.user(request), self.repositories.get(repo)
        if repository is None or (repository.private and user != repository.owner):
            # Over http the client needs the code to see what it sees from the bare 401 over https.
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if repository.disabled:
            raise Refusal(403, "Access to this resource is disabled.")
        return repository

    def writable(self, request: Request, repo: str) -> Repository:
        repository, user = self.readable(request, repo), self.user(request)
        if user is None:
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        if user != repository.owner:
            raise Refusal(403, "You don't have write access to this repository")
        return repository


def find_commit(repository: Repository, revision: str) -> Commit:
    commit = repository.find(revision)
    if commit is None:
        raise Refusal(404, "Invalid revision", "RevisionNotFound")
    return commit


Handler = Callable[..., Answer]
# A field stands for one part of a path, except these.
FIELDS = {"repo": "[^/]+(?:/[^/]+)?", "path": ".+"}
ROUTES: list[tuple[frozenset[str], re.Pattern[str], Handler]] = []


def route(methods: str, template: str) -> Callable[[Handler], Handler]:
    """Send requests to the decorated function, with the fields of the template as arguments."""
    texts_and_fields = re.split(r"{(\w+)}", template)
    expressions = [re.escape(part) for part in texts_and_fields]
    expressions[1::2] = [f"(?P<{field}>{FIELDS.get(field, '[^/]+')})" for field in texts_and_fields[1::2]]
    pattern = re.compile("".join(expressions))

    def register(handler: Handler) -> Handler:
        ROUTES.append((frozenset(methods.split()), pattern, handler))
        return handler

    return register


# Repositories


@route("POST", "/api/repos/create")
def create_repository(hub: Hub, request: Request) -> Answer:
    user, wanted = hub.user(request), request.json
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    if wanted.get("organization") not in {None, user}:
        raise Refusal(403, "You don't have the rights to use this namespace")
    repo = f"{user}/{wanted['name']}"
    url = f"{hub.endpoint}/{repo}"
    if repo in hub.repositories:
        return json_answer({"error": "You already created this model repo", "url": url}, 409)
    # Clients before 1.0 say `private`.
    repository = Repository(repo, private=wanted.get("visibility") == "private" or wanted.get("private") is True)
    attributes = File(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", lfs=False)
    repository.add(MAIN, {".gitattributes": attributes})
    hub.repositories[repo] = repository
    return json_answer({"url": url})


@route("GET HEAD", "/api/models/{repo}")
@route("GET HEAD", "/api/models/{repo}/revision/{revision}")
def describe_repository(hub: Hub, request: Request, repo: str, revision: str = MAIN) -> Answer:
    repository = hub.readable(request, repo)
    description = {"id": repo, "sha": find_commit(repository, revision).oid, "private": repository.private}
    return json_answer({**description, "createdAt": DATE, "lastModified": DATE, "tags": [], "siblings": []})


@route("GET", "/api/models/{repo}/refs")
def list_refs(hub: Hub, request: Request, repo: str) -> Answer:
    repository = hub.readable(request, repo)

    def listed(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in refs.items()]

    branches, tags = listed("heads", repository.branches), listed("tags", repository.tags)
    return json_answer({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


@route("POST", "/api/models/{repo}/tag/{revision}")
def create_tag(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    repository = hub.writable(request, repo)
    add_ref(repository.tags, request.json["tag"], find_commit(repository, revision))
    return json_answer({})


@route("POST", "/api/models/{repo}/branch/{name}")
def create_branch(hub: Hub, request: Request, repo: str, name: str) -> Answer:
    repository = hub.writable(request, repo)
    add_ref(repository.branches, name, find_commit(repository, request.json.get("startingPoint", MAIN)))
    return json_answer({})


def add_ref(refs: dict[str, str], name: str, commit: Commit) -> None:
    if name in refs:
        raise Refusal(409, "Reference already exists")
    refs[name] = commit.oid


# Files of a commit


@route("POST", "/api/models/{repo}/paths-info/{revision}")
def describe_paths(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    """Describe the files among the paths, in order, and pass over what does not exist."""
    commit = find_commit(hub.readable(request, repo), revision)
    entries: list[dict[str, Any]] = []
    for path in sorted(parse_qs(request.body.decode()).get("paths", [])):
        if (file := commit.files.get(path)) is not None:
            entries.append({"type": "file", "path": path, "oid": file.blob_id, "size": len(file.data)})
            if file.lfs:
                entries[-1]["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    return json_answer(entries)


@route("GET HEAD", "/{repo}/resolve/{revision}/{path}")
def resolve(hub: Hub, request: Request, repo: str, revision: str, path: str) -> Answer:
    repository = hub.readable(request, repo)
    if repository.gated and (user := hub.user(request)) != repository.owner:
        raise Refusal(401 if user is None else 403, "Access to this model is restricted.", "GatedRepo")
    commit = find_commit(repository, revision)
    file = commit.files.get(path)
    if file is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", commit=commit)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"'}
    if not file.lfs:
        return file_answer(file.data, headers)
    headers["Location"] = f"{hub.cdn}/cdn/{quote(repo)}/{file.sha256}/{quote(path)}"
    headers.update({"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))})
    if hub.xet is not None and (stored := hub.xet.find(file.sha256)) is not None:
        tokens = f"{hub.endpoint}/api/models/{repo}/xet-read-token/{commit.oid}"
        headers.update({"X-Xet-Hash": stored.hash, "Link": f'<{tokens}>; rel="xet-auth"'})
    return Answer(302, headers)


def file_answer(data: bytes, headers: dict[str, str]) -> Answer:
    return Answer(200, {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}, data)


@route("GET HEAD", "/cdn/{repo}/{sha256}/{path}")
def serve_large_file(hub: Hub, request: Request, repo: str, sha256: str, path: str) -> Answer:
    if sha256 not in hub.large_files:
        raise Refusal(404, "No such object")
    return file_answer(hub.large_files[sha256], {"ETag": f'"{sha256}"'})


# Uploads


@route("POST", "/api/validate-yaml")
def validate_card(hub: Hub, request: Request) -> Answer:
    """Look at the metadata of a model card by its form: closed, no tabs, each line a key, an item or a continuation."""
    lines = request.json["content"].splitlines()
    if lines[:1] != ["---"]:
        return json_answer({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    if "---" not in lines[1:]:
        return json_answer({"errors": [{"message": "the metadata has no closing ---"}], "warnings": []}, 400)
    metadata = lines[1 : lines.index("---", 1)]
    bad = [line for line in metadata if "\t" in line or not re.match(r"\s*$|\s*#|\s+\S|- |-$|[\w.-]+:( |$)", line)]
    errors = [{"message": f"ill-formed line: {line}"} for line in bad]
    return json_answer({"errors": errors, "warnings": []}, 400 if errors else 200)


@route("POST", "/api/models/{repo}/preupload/{revision}")
def plan_upload(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    commit = find_commit(hub.writable(request, repo), revision)

    def planned(path: str, size: int) -> dict[str, Any]:
        plan = {"path": path, "uploadMode": "lfs" if is_lfs(path, size) else "regular", "shouldIgnore": False}
        return {**plan, "oid": commit.files[path].etag} if path in commit.files else plan

    return json_answer({"files": [planned(file["path"], file["size"]) for file in request.json["files"]]})


@route("POST", "/{repo}.git/info/lfs/objects/batch")
def plan_large_files(hub: Hub, request: Request, repo: str) -> Answer:
    hub.writable(request, repo)

    def planned(oid: str, size: int) -> dict[str, Any]:
        plan = {"oid": oid, "size": size}
        if oid in hub.large_files:
            return plan
        return {**plan, "actions": {"upload": {"href": f"{hub.cdn}/upload/{repo}/{oid}?size={size}"}}}

    objects = [planned(wanted["oid"], wanted["size"]) for wanted in request.json["objects"]]
    # Only old clients (0.36 to 1.16) learn here whether to use Xet.
    transfer = "xet" if hub.xet is not None and "xet" in request.json["transfers"] else "basic"
    return json_answer({"transfer": transfer, "objects": objects})


@route("PUT", "/upload/{repo}/{oid}")
def take_large_file(hub: Hub, request: Request, repo: str, oid: str) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refusal(400, "The content does not have the promised SHA-256")
    hub.large_files[oid] = request.body
    return Answer()


@route("POST", "/api/models/{repo}/commit/{revision}")
def create_commit(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    repository = hub.writable(request, repo)
    if revision not in repository.branches:
        raise Refusal(404, "Invalid revision", "RevisionNotFound")
    files = dict(find_commit(repository, revision).files)
    for line in request.body.splitlines():
        key, value = itemgetter("key", "value")(json.loads(line))
        if key == "file":
            files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            files[value["path"]] = File(find_large_file(hub, value["oid"]), lfs=True)
        elif key != "header":
            raise Refusal(400, "Cannot carry out the operation")
    commit = repository.add(revision, files)
    return json_answer({"commitOid": commit.oid, "commitUrl": f"{hub.endpoint}/{repo}/commit/{commit.oid}"})


def find_large_file(hub: Hub, oid: str) -> bytes:
    if oid not in hub.large_files:
        stored = hub.xet.find(oid) if hub.xet is not None else None
        if hub.xet is None or stored is None:
            raise Refusal(400, "The content of a large file was not uploaded")
        hub.large_files[oid] = hub.xet.read(stored)
    return hub.large_files[oid]


@route("GET", "/api/models/{repo}/xet-{access}-token/{revision}")
def issue_xet_token(hub: Hub, request: Request, repo: str, access: str, revision: str) -> Answer:
    if hub.xet is None:
        raise Refusal(404, "Not Found")
    if access == "write":
        hub.writable(request, repo)
    else:
        hub.readable(request, repo)
    token, expiry = f"xet-{access}", 1 << 40
    headers = {"X-Xet-Cas-Url": hub.xet.url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expiry)}
    return json_answer({"casUrl": hub.xet.url, "accessToken": token, "exp": expiry}, headers=headers)


# What the client asks on its own account


@route("GET", "/api/agent-harnesses")
def list_harnesses(hub: Hub, request: Request) -> Answer:
    return json_answer({"standardEnvVars": [], "harnesses": {}})
