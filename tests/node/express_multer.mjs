// An upload API on Express with multer: express_multer.mjs FD STORE
import express from "express";
import multer from "multer";

const [descriptor, store] = process.argv.slice(2);
const app = express();
const storage = multer.diskStorage({
  destination: store,
  filename: (_request, file, done) => done(null, file.originalname.replace(/[^\w.-]/g, "_")),
});

app.post("/upload", multer({ storage }).single("somefile"), (request, answer) => {
  if (!request.file) return answer.status(400).json({ error: "no file" });
  answer.json({ status: "done", path: request.file.path, name: request.file.originalname, fields: request.body });
});

app.listen({ fd: Number(descriptor) });
