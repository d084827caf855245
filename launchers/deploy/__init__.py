"""What a deployment needs: today the image of the model server."""
