"""HTTP routes of voices, and forms with recordings in them."""

import dataclasses
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cosyjax.serving.problems import Problem, problem_of
from cosyjax.serving.service import Service

FIELD_BYTES = 64 << 10  # of a form's text field


@dataclasses.dataclass(frozen=True)
class Upload:
  """A file of a form."""

  data: bytes
  media_type: str


async def read_form(request: Request, wanted: dict[str, bool]) -> tuple[dict[str, str], dict[str, Upload]]:
  """A multipart form.

  Args:
    request: with the form.
    wanted: names of files, and whether each has to be there.

  Returns:
    Its text fields and its files.

  Raises:
    Problem: no form, broken, or a file is missing.
  """
  if not request.headers.get("content-type", "").startswith("multipart/form-data"):
    raise Problem(415, "expected multipart/form-data", "unsupported_media_type")
  fields, files = {}, {}
  try:
    async with request.form(max_files=4, max_fields=32, max_part_size=FIELD_BYTES) as form:
      for name, value in form.multi_items():
        if isinstance(value, UploadFile):
          files[name] = Upload(await value.read(), (value.content_type or "").split(";")[0].strip()[:64])
        else:
          fields[name] = value
  except OSError as error:  # large parts lie on disk meanwhile
    raise Problem(507, "the form could not be stored", "disk_full") from error
  except Exception as error:  # the parser has many ways to say that a form is broken
    if isinstance(error, Problem):
      raise
    raise Problem(400, "the form cannot be read", "invalid_form") from error
  for name, needed in wanted.items():
    if needed and not (name in files and files[name].data):
      raise Problem(400, f"{name}: expected a recording, found none", "missing_field", name)
  return fields, files


class VoiceRoutes:
  """Handlers; see docs/serving.md."""

  def __init__(self, service: Service) -> None:
    self._service = service

  async def voices(self, request: Request) -> Response:
    """GET /v1/audio/voices"""
    voices = await self._service.list_voices()
    uploaded = [v for v in voices if v["uploaded"] and not v.get("damaged")]
    if request.query_params.get("legacy") == "true":
      return JSONResponse({"voices": [v["name"] for v in voices], "uploaded_voices": uploaded})
    return JSONResponse({"voices": voices, "uploaded_voices": uploaded})

  async def add(self, request: Request) -> Response:
    """POST /v1/audio/voices"""
    fields, files = await read_form(request, {"audio_sample": True})
    sample = files["audio_sample"]
    transcript = fields.get("ref_text", fields.get("transcript", ""))
    for name, text in (("ref_text", transcript), ("consent", fields.get("consent", ""))):
      if len(text) > self._service.settings.limits.instruction:
        raise Problem(400, f"{name}: too long", "text_too_long", name)
    voice, replaced = await self._service.add_voice(
      fields.get("name", ""),
      sample.data,
      transcript,
      fields.get("consent", ""),
      fields.get("speaker_description", ""),
      sample.media_type,
    )
    answer: dict[str, Any] = {"success": True, "id": voice["id"], "name": voice["name"], "voice": voice}
    if replaced:
      answer |= {"overwritten": True, "warning": "a voice of this name has been overwritten"}
    return JSONResponse(answer)

  async def delete(self, request: Request) -> Response:
    """DELETE /v1/audio/voices/{name}"""
    try:
      await self._service.delete_voice(request.path_params["name"])
    except Problem as error:
      problem = problem_of(error)
      return JSONResponse({"success": False} | problem.body(), problem.status)
    return JSONResponse({"success": True, "deleted": True, "message": "the voice has been deleted"})
