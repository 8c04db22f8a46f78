// Upload a file with got, which frames forms by form-data-encoder: upload_got.mjs URL FILE FILENAME
import { openAsBlob } from "node:fs";
import got from "got";

const [url, path, name] = process.argv.slice(2);
const body = new FormData();
body.append("title", "before");
body.append("somefile", await openAsBlob(path, { type: "application/pdf" }), name);
const answer = await got.post(url, { body, retry: { limit: 0 } });
console.log(answer.body);
