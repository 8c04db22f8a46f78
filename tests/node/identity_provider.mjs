// An OpenID provider for tests. It prints its URL. POST /rotate replaces its keys, and keeps the old one published.
//
// POST /token with the client's credentials and resource=AUDIENCE gives an access token that is a JWT (RFC 9068).

import { createServer } from "node:http";
import { generateKeyPairSync } from "node:crypto";
import { Provider } from "oidc-provider";

const [audience, algorithm] = process.argv.slice(2);
const keys = [];
let callback;

const server = createServer((request, response) => {
  if (request.url !== "/rotate") return callback(request, response);
  rotate();
  response.end();
});

function rotate() {
  const { privateKey } =
    algorithm === "ES256"
      ? generateKeyPairSync("ec", { namedCurve: "P-256" })
      : algorithm === "EdDSA"
        ? generateKeyPairSync("ed25519")
        : generateKeyPairSync("rsa", { modulusLength: 2048 });
  keys.unshift({ ...privateKey.export({ format: "jwk" }), kid: `key-${keys.length}`, use: "sig", alg: algorithm });
  const provider = new Provider(`http://127.0.0.1:${server.address().port}`, {
    clients: [
      {
        client_id: "uploader",
        client_secret: "secret-of-the-uploader",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: algorithm,
      },
    ],
    jwks: { keys },
    scopes: ["upload", "read"],
    enabledJWA: { idTokenSigningAlgValues: [algorithm] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({
          scope: "upload read",
          audience,
          accessTokenTTL: 300,
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: algorithm } },
        }),
      },
    },
  });
  callback = provider.callback();
}

server.listen(0, "127.0.0.1", () => {
  rotate();
  console.log(`http://127.0.0.1:${server.address().port}`);
});
