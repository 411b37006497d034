// Parses each Mermaid file given with the real parser, strict; exit status 1 if one is refused.
import fs from "node:fs";
import { JSDOM } from "jsdom";

const { window } = new JSDOM("<body></body>");
globalThis.window = window;
globalThis.document = window.document;
const { default: mermaid } = await import("mermaid");
mermaid.initialize({ securityLevel: "strict" });

for (const path of process.argv.slice(2)) {
  try {
    const { diagramType } = await mermaid.parse(fs.readFileSync(path, "utf8"));
    console.log(path, diagramType);
  } catch (error) {
    console.log(path, "REFUSED", error.message);
    process.exitCode = 1;
  }
}
