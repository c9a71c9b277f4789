// The official SDK for Node.
import OpenAI from "openai";
import { QUESTION, RESULT, SCHEMA, TOOL_QUESTION, TOOL, url, refused, tell } from "./told.mjs";

const client = new OpenAI({ baseURL: url, apiKey: "unused", maxRetries: 0 });
const asked = (content = QUESTION) => [{ role: "user", content }];
const create = (body) => client.chat.completions.create(body);
const format = { type: "json_schema", json_schema: { name: "x", strict: true, schema: SCHEMA } };

await tell({
  list: async () => {
    const ids = [];
    for await (const each of client.models.list()) ids.push(each.id);
    return ids;
  },
  retrieve: async (model) => (await client.models.retrieve(model)).id,
  whole: async (model) => (await create({ model, messages: asked() })).choices[0].message.content,
  streamed: async (model) => {
    let text = "";
    for await (const chunk of await create({ model, messages: asked(), stream: true }))
      text += chunk.choices[0]?.delta.content ?? "";
    return text;
  },
  tools: async (model) => {
    const lookup = { ...TOOL.function, parse: JSON.parse, function: async () => RESULT };
    const tools = [{ type: "function", function: lookup }];
    const messages = asked(TOOL_QUESTION);
    return await client.chat.completions.runTools({ model, messages, tools, stream: true }).finalContent();
  },
  structured: async (model) =>
    (await create({ model, messages: asked(), response_format: format })).choices[0].message.content,
  error: (model) => refused(create({ model: "nobody", messages: asked() })),
}, async (model) => {
  for await (const chunk of await create({ model, messages: asked(), stream: true }))
    if (chunk.choices[0]?.delta.content) return true; // which ends the stream
});
