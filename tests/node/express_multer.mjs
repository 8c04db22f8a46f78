// An upload API on Express with multer: express_multer.mjs FD STORE
// Optional variables: MAX_BODY (bytes; more is answered with 413), IDLE (seconds of silence on a connection), REQUEST
// (seconds for a whole request), CERTIFICATE (a PEM with chain and key: it speaks TLS).
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import express from "express";
import multer from "multer";

const [descriptor, store] = process.argv.slice(2);
const { MAX_BODY, IDLE, REQUEST, CERTIFICATE } = process.env;
const app = express();
app.set("trust proxy", 1);
const storage = multer.diskStorage({
  destination: store,
  filename: (_request, file, done) => done(null, file.originalname.replace(/[^\w.-]/g, "_")),
});

app.use((request, answer, next) => {
  if (Number(request.headers["content-length"] ?? 0) <= Number(MAX_BODY ?? Infinity)) return next();
  answer.set("Connection", "close").status(413).send("too large");
});

app.post("/upload", multer({ storage }).single("somefile"), (request, answer) => {
  if (!request.file) return answer.status(400).json({ error: "no file" });
  const seen = [request.ip, request.protocol, request.hostname];
  answer.json({ status: "done", path: request.file.path, name: request.file.originalname, fields: request.body, seen });
});

const options = { connectionsCheckingInterval: 250 };
if (REQUEST) Object.assign(options, { headersTimeout: REQUEST * 1000, requestTimeout: REQUEST * 1000 });
const pem = CERTIFICATE && readFileSync(CERTIFICATE);
const server = pem ? createTlsServer({ ...options, cert: pem, key: pem }, app) : createServer(options, app);
if (IDLE) server.timeout = IDLE * 1000;
server.listen({ fd: Number(descriptor) });
