// What a page does to upload with Uppy, bundled for browsers: uploadByUppy(ENDPOINT, FILENAME, BASE64, OPTIONS)
import Uppy from "@uppy/core";
import Tus from "@uppy/tus";

window.uploadByUppy = async (endpoint, filename, base64, options) => {
  const content = await (await fetch(`data:application/pdf;base64,${base64}`)).blob();
  const uppy = new Uppy({ autoProceed: false }).use(Tus, { endpoint, ...options });
  uppy.addFile({ name: filename, type: "application/pdf", data: content });
  const { successful, failed } = await uppy.upload();
  const [file] = [...successful, ...failed];
  const xhr = file.response?.body?.xhr;
  const outcome = {
    done: successful.length === 1,
    status: xhr?.status ?? 0,
    body: xhr?.responseText ?? String(file.error),
    url: file.tus?.uploadUrl ?? null,
  };
  uppy.destroy();
  return outcome;
};
