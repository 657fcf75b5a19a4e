#!/bin/sh
# A network plugin for tests. Notes how it was called, keeps its configuration, then does what the file
# <plugin>.<command> beside it says.
directory=$(dirname "$0")
name=$(basename "$0")
echo "$CNI_COMMAND $name" >>"$directory/calls"
echo "$CNI_CONTAINERID $CNI_IFNAME netns=$CNI_NETNS args=$CNI_ARGS path=$CNI_PATH" >"$directory/$name.$CNI_COMMAND.variables"
cat >"$directory/$name.$CNI_COMMAND.input"
[ ! -e "$directory/$name.$CNI_COMMAND" ] || . "$directory/$name.$CNI_COMMAND"
