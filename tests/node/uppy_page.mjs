// What a page does to upload with Uppy, bundled for browsers: uploadByUppy(ENDPOINT, FILENAME, BASE64, OPTIONS)
import Uppy from "@uppy/core";
import Tus from "@uppy/tus";

window.uploadByUppy = async (endpoint, filename, base64, options) => {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const uppy = new Uppy({ autoProceed: false }).use(Tus, { endpoint, ...options });
  let last = { status: 0, body: "" };
  // The answer can be read during the event alone: Uppy aborts the request of a success afterwards.
  const read = (file, xhr) => {
    last = { status: xhr?.status ?? 0, body: xhr?.responseText ?? "" };
  };
  uppy.on("upload-success", (file, response) => read(file, response.body.xhr));
  uppy.on("upload-error", (file, error, response) => read(file, response?.body.xhr));
  uppy.addFile({ name: filename, type: "application/pdf", data: new Blob([bytes]) });
  const { successful, failed } = await uppy.upload();
  const [file] = [...successful, ...failed];
  uppy.destroy();
  return { done: successful.length === 1, ...last, url: file.tus?.uploadUrl ?? null };
};
