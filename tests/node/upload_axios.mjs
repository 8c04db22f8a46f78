// Upload a file with axios and form-data, in chunks unless its length is told:
// upload_axios.mjs URL FILE FILENAME stream|length|buffer
import { createReadStream, readFileSync, statSync } from "node:fs";
import axios from "axios";
import FormData from "form-data";

const [url, file, filename, mode] = process.argv.slice(2);
const form = new FormData();
form.append("title", "Bericht für März");
if (mode === "buffer") {
  form.append("somefile", readFileSync(file), { filename });
} else {
  const knownLength = mode === "length" ? statSync(file).size : undefined;
  form.append("somefile", createReadStream(file), { filename, contentType: "application/pdf", knownLength });
}
form.append("note", "two\nlines");

const headers = form.getHeaders();
if (mode !== "stream") headers["Content-Length"] = form.getLengthSync();
const limits = { maxBodyLength: Infinity, maxRedirects: 0 };
const answer = await axios.post(url, mode === "stream" ? form.pipe(new (await import("node:stream")).PassThrough()) : form, { headers, ...limits });
console.log(JSON.stringify(answer.data));
