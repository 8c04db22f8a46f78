// How a page of another origin uploads, bundled for browsers: uploads.NAME(RELAY, OPTIONS) gives {status, body, …}
import Uppy from "@uppy/core";
import Tus from "@uppy/tus";
import XHRUpload from "@uppy/xhr-upload";
import Dropzone from "dropzone";
import { create } from "filepond";

const NAME = "report.pdf";
const content = (size) => new Blob([new Uint8Array(size).fill(120)], { type: "application/pdf" });
const file = (size) => new File([content(size)], NAME, { type: "application/pdf" });

const read = async (answer) => ({
  status: answer.status,
  body: await answer.text(),
  id: answer.headers.get("X-Request-ID"),
  own: answer.headers.get("X-Own"),
});

const form = (size, field) => {
  const data = new FormData();
  data.append(field, file(size), NAME);
  return data;
};

const byUppy = async (plugin, options, size) => {
  const uppy = new Uppy().use(plugin, options);
  let status = 0;
  let body = "";
  uppy.on("upload-success", (_, answer) => ({ status, body = "" } = { ...answer, body: JSON.stringify(answer.body) }));
  uppy.on("upload-error", (_, error, answer) => ({ status = 0 } = answer ?? {}));
  uppy.addFile({ name: NAME, type: "application/pdf", data: content(size) });
  const { successful } = await uppy.upload();
  uppy.destroy();
  return { status, body, done: successful.length === 1 };
};

window.uploads = {
  fetch: async (relay, { size, field, ...options }) =>
    read(await fetch(`${relay}/upload1`, { method: "POST", body: form(size, field), ...options })),

  put: async (relay, { size, ...options }) =>
    read(await fetch(`${relay}/upload/${NAME}`, { method: "PUT", body: content(size), ...options })),

  xhr: (relay, { size, field }) =>
    new Promise((resolve) => {
      const request = new XMLHttpRequest();
      let progress = 0;
      request.upload.onprogress = (event) => (progress = event.loaded);
      request.onloadend = () => resolve({ status: request.status, body: request.responseText, progress });
      request.open("POST", `${relay}/upload1`);
      request.send(form(size, field));
    }),

  uppyXhr: (relay, { size }) => byUppy(XHRUpload, { endpoint: `${relay}/upload1` }, size),

  uppyTus: (relay, { size }) => byUppy(Tus, { endpoint: `${relay}/files/` }, size),

  filePond: (relay, { size }) =>
    new Promise((resolve) => {
      const pond = create({ server: `${relay}/upload1`, files: [] });
      pond.on("processfile", (error, item) => resolve({ status: error ? error.code : 200, body: item.serverId }));
      pond.addFile(file(size)).catch(() => {});
    }),

  dropzone: (relay, { size }) =>
    new Promise((resolve) => {
      const zone = new Dropzone(document.createElement("div"), { url: `${relay}/upload1` });
      zone.on("complete", ({ xhr, status }) =>
        resolve({ status: xhr.status, body: xhr.responseText, done: status === "success" }),
      );
      zone.addFile(file(size));
    }),

  job: async (relay, { source, field }) => {
    const answer = await fetch(`${relay}/upload2`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Prefer: "respond-async" },
      body: JSON.stringify({ [field]: source }),
    });
    const events = new EventSource(new URL(`${answer.headers.get("Location")}/events`, relay));
    return new Promise((resolve) => {
      events.onerror = () => resolve({ status: answer.status, body: "the event stream failed" });
      events.addEventListener("job", ({ data }) => {
        if (JSON.parse(data).state !== "running") {
          events.close();
          resolve({ status: answer.status, body: data });
        }
      });
    });
  },

  element: (relay, { size, field }) =>
    new Promise((resolve) => {
      const frame = Object.assign(document.createElement("iframe"), { name: "answer" });
      const element = Object.assign(document.createElement("form"), {
        action: `${relay}/upload1`,
        method: "POST",
        enctype: "multipart/form-data",
        target: "answer",
      });
      const input = Object.assign(document.createElement("input"), { type: "file", name: field });
      const chosen = new DataTransfer();
      chosen.items.add(file(size));
      input.files = chosen.files;
      element.append(input);
      document.body.append(frame, element);
      frame.onload = () => resolve({ status: 0, body: "" });
      element.submit();
    }),
};
