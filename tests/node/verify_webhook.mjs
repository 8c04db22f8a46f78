// Verify a delivery: verify_webhook.mjs SECRET, with {"body": …, "headers": …} on standard input
import { text } from "node:stream/consumers";
import { Webhook } from "standardwebhooks";

const { body, headers } = JSON.parse(await text(process.stdin));
console.log(new Webhook(process.argv[2]).verify(body, headers).type);
