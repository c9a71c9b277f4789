// The Vercel AI SDK.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { QUESTION, RESULT, TOOL_QUESTION, url, refused, tell } from "./told.mjs";

const provider = createOpenAICompatible({
  name: "looper", baseURL: url, apiKey: "unused", supportsStructuredOutputs: true,
});
const asked = (model, prompt = QUESTION) => ({ model: provider(model), prompt, maxRetries: 0 });
const lookup = tool({
  description: "Looks it up.", inputSchema: z.object({ q: z.string() }), execute: async () => RESULT,
});

await tell({
  whole: async (model) => (await generateText(asked(model))).text,
  streamed: async (model) => await streamText(asked(model)).text,
  tools: async (model) => {
    const { text } = streamText({ ...asked(model, TOOL_QUESTION), tools: { lookup }, stopWhen: stepCountIs(3) });
    return await text;
  },
  structured: async (model) => {
    const output = Output.object({ schema: z.object({ answer: z.string() }) });
    return (await generateText({ ...asked(model), output })).output;
  },
  error: () => refused(generateText(asked("nobody"))),
}, async (model) => {
  const leaving = new AbortController();
  const { textStream } = streamText({ ...asked(model), abortSignal: leaving.signal });
  for await (const piece of textStream)
    if (piece) {
      leaving.abort();
      return true;
    }
});
