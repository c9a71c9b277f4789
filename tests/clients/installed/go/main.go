// go-openai, as a program that says what it was told.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	openai "github.com/sashabaranov/go-openai"
)

const question = "What is the capital of Canada?"
const result = "It is Ottawa, says the tool."

var client *openai.Client
var ctx = context.Background()
var parameters = json.RawMessage(`{"type":"object","properties":{"q":{"type":"string"}},"required":["q"]}`)
var schema = json.RawMessage(`{"type":"object","properties":{"answer":{"type":"string"}},` +
	`"required":["answer"],"additionalProperties":false}`)
var tools = []openai.Tool{{Type: openai.ToolTypeFunction, Function: &openai.FunctionDefinition{
	Name: "lookup", Description: "Looks it up.", Parameters: parameters}}}

func asked(model, text string) openai.ChatCompletionRequest {
	return openai.ChatCompletionRequest{Model: model, Messages: []openai.ChatCompletionMessage{
		{Role: openai.ChatMessageRoleUser, Content: text}}}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ask(request openai.ChatCompletionRequest) openai.ChatCompletionMessage {
	answer, err := client.CreateChatCompletion(ctx, request)
	must(err)
	return answer.Choices[0].Message
}

func list() []string {
	models, err := client.ListModels(ctx)
	must(err)
	var ids []string
	for _, each := range models.Models {
		ids = append(ids, each.ID)
	}
	return ids
}

func retrieve(name string) string {
	model, err := client.GetModel(ctx, name)
	must(err)
	return model.ID
}

// Reads a stream to its end, or to its first piece.
func read(model string, all bool) string {
	stream, err := client.CreateChatCompletionStream(ctx, asked(model, question))
	must(err)
	defer stream.Close()
	text := ""
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return text
		}
		must(err)
		for _, choice := range chunk.Choices {
			text += choice.Delta.Content
		}
		if text != "" && !all {
			return text
		}
	}
}

func callTools(model string) string {
	request := asked(model, "Use lookup. "+question)
	request.Tools = tools
	message := ask(request)
	request.Messages = append(request.Messages, message)
	for _, call := range message.ToolCalls {
		request.Messages = append(request.Messages, openai.ChatCompletionMessage{
			Role: openai.ChatMessageRoleTool, ToolCallID: call.ID, Content: result})
	}
	return ask(request).Content
}

func structured(model string) string {
	request := asked(model, question)
	request.ResponseFormat = &openai.ChatCompletionResponseFormat{
		Type: openai.ChatCompletionResponseFormatTypeJSONSchema,
		JSONSchema: &openai.ChatCompletionResponseFormatJSONSchema{
			Name: "x", Schema: schema, Strict: true}}
	return ask(request).Content
}

func refused() string {
	_, err := client.CreateChatCompletion(ctx, asked("nobody", question))
	return fmt.Sprint(err)
}

func main() {
	config := openai.DefaultConfig("unused")
	config.BaseURL = os.Args[1]
	client = openai.NewClientWithConfig(config)
	told := map[string]map[string]any{}
	for _, model := range []string{"looper/one", "looper/team"} {
		told[model] = map[string]any{
			"list": list(), "retrieve": retrieve(model), "whole": ask(asked(model, question)).Content,
			"streamed": read(model, true), "tools": callTools(model), "structured": structured(model),
			"error": refused(),
		}
	}
	told["looper/slow"] = map[string]any{"leave": read("looper/slow", false) != ""}
	must(json.NewEncoder(os.Stdout).Encode(told))
}
