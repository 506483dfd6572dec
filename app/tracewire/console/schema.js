// The page at /schema: reads the server's OpenAPI document, and makes a form of each operation to try it with.

import { about, signInAs } from "/console/api.js";
import { byId, element } from "/console/element.js";
import { Session } from "/console/session.js";

const STREAM = "text/event-stream";
const SHOWN_CHARACTERS_MAX = 200_000;

const openapi = await (await fetch("/schema/openapi.json")).json();
byId("about").textContent = openapi.info.description.replaceAll("`", "");
await offerSignIn();
for (const tag of openapi.tags) {
  byId("operations").append(element("h2", {}, tag.description), ...operationsOf(tag.name).map(block));
}
document.body.dataset.state = "loaded";

// Signing in.

async function offerSignIn() {
  const remembered = Session.remembered();
  if (remembered) {
    try {
      byId("token").value = await remembered.token();
      byId("sign-in-state").textContent = "with the token of the console, in this tab";
    } catch {
      byId("sign-in-state").textContent = "the console's token holds no more";
    }
  }
  byId("development").hidden = !(await about()).development;
  byId("sign-in").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      byId("token").value = await signInAs(byId("user").value);
      byId("sign-in-state").textContent = `signed in as ${byId("user").value}`;
    } catch (error) {
      byId("sign-in-state").textContent = error.message;
    }
  });
}

// What the document says.

function operationsOf(tag) {
  return Object.entries(openapi.paths).flatMap(([path, methods]) =>
    Object.entries(methods)
      .filter(([, operation]) => operation.tags.includes(tag))
      .map(([method, operation]) => ({ path, method: method.toUpperCase(), ...operation })),
  );
}

function block(operation) {
  const { method, path, summary, operationId } = operation;
  return element(
    "details",
    { class: "operation", id: operationId },
    element("summary", {}, element("span", { class: "method" }, method), element("code", {}, path), summary),
    form(operation),
  );
}

function form(operation) {
  const sent = element("pre", { class: "sent", role: "log", tabindex: "0", "aria-label": "Answer", hidden: true });
  const send = element("button", { type: "submit" }, "Send");
  const stop = element("button", { type: "button", hidden: true }, "Stop");
  const made = element(
    "form",
    { "aria-label": operation.summary },
    operation.description ? element("p", {}, operation.description.replaceAll("`", "")) : null,
    ...(operation.parameters ?? []).map((parameter) => parameterField(operation, parameter)),
    bodyField(operation),
    acceptField(operation),
    element("div", {}, send, " ", stop),
    sent,
    element("ul", { class: "answers" }, ...Object.entries(operation.responses).map(answerLine)),
  );
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    const aborting = new AbortController();
    stop.onclick = () => aborting.abort();
    send.disabled = true;
    stop.hidden = sent.hidden = false;
    try {
      await tryOut(operation, new FormData(made), sent, aborting.signal);
    } catch (error) {
      show(sent, aborting.signal.aborted ? "\nstopped" : `\n${error.message}`);
    }
    send.disabled = false;
    stop.hidden = true;
  });
  return made;
}

function parameterField({ operationId }, { name, in: where, description, required, schema }) {
  const id = `${operationId}-${name}`;
  return element(
    "div",
    { class: "field" },
    element("label", { for: id }, name, required ? "" : " (optional)"),
    element("input", {
      id,
      name: `${where}:${name}`,
      required: Boolean(required),
      placeholder: schema.default ?? null,
      inputmode: schema.type === "integer" ? "numeric" : null,
      spellcheck: "false",
      autocomplete: "off",
    }),
    element("small", {}, description.replaceAll("`", "")),
  );
}

function bodyField({ operationId, requestBody }) {
  if (!requestBody) return null;
  const id = `${operationId}-body`;
  const json = requestBody.content["application/json"];
  const field = json
    ? element("textarea", { id, name: "body", spellcheck: "false" }, firstExample(json))
    : element("input", { id, name: "file", type: "file", required: true });
  return element(
    "div",
    { class: "field" },
    element("label", { for: id }, json ? "Body (JSON)" : "File"),
    field,
    requestBody.description ? element("small", {}, requestBody.description) : null,
  );
}

function firstExample({ examples }) {
  return JSON.stringify(Object.values(examples)[0].value, null, 2);
}

function acceptField({ operationId, responses }) {
  const types = Object.keys(responses["200"]?.content ?? {});
  if (types.length < 2) return null;
  const id = `${operationId}-accept`;
  return element(
    "div",
    { class: "field" },
    element("label", { for: id }, "Accept"),
    element("select", { id, name: "accept" }, ...types.map((type) => element("option", {}, type))),
  );
}

function answerLine([status, { description }]) {
  return element("li", {}, `${status}: ${description.replaceAll("`", "")}`);
}

// Trying it.

async function tryOut(operation, values, sent, signal) {
  const { url, headers, body } = requestOf(operation, values);
  sent.textContent = `${operation.method} ${url}\n`;
  const response = await fetch(url, { method: operation.method, headers, body, signal });
  show(sent, `${response.status} ${response.statusText}\n`);
  for (const name of ["content-type", "location", "retry-after"]) {
    if (response.headers.has(name)) show(sent, `${name}: ${response.headers.get(name)}\n`);
  }
  show(sent, "\n");
  if (response.headers.get("content-type")?.startsWith(STREAM)) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) show(sent, part.value);
    return;
  }
  show(sent, pretty(await response.text()));
}

function requestOf(operation, values) {
  const headers = new Headers();
  const query = new URLSearchParams();
  let path = operation.path;
  const token = byId("token").value.trim();
  if (token && !(operation.security && !operation.security.length)) headers.set("Authorization", `Bearer ${token}`);
  for (const { name, in: where } of operation.parameters ?? []) {
    const value = values.get(`${where}:${name}`).trim();
    if (where === "path") path = path.replace(`{${name}}`, encodeURIComponent(value));
    else if (value && where === "query") query.set(name, value);
    else if (value) headers.set(name, value);
  }
  if (values.has("accept")) headers.set("Accept", values.get("accept"));
  if (values.has("body")) headers.set("Content-Type", "application/json");
  return {
    url: query.size ? `${path}?${query}` : path,
    headers,
    body: values.get("body") ?? values.get("file") ?? undefined,
  };
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function show(sent, text) {
  sent.append(text);
  if (sent.textContent.length > SHOWN_CHARACTERS_MAX) {
    sent.textContent = sent.textContent.slice(-SHOWN_CHARACTERS_MAX);
  }
  sent.scrollTop = sent.scrollHeight;
}
